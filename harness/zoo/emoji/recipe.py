"""The recipe of `emoji`: how long each stage trains, and how wide the networks are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from harness.zoo.shapes.recipe import Count

Width = Annotated[int, Field(ge=32, le=4096, multiple_of=32)]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Lengths of the stages in steps, images per step, and sizes. The defaults are those of the shipped weights."""

    vae_steps: Count = 1_439
    vae_batch: Count = 128
    vae_width: Annotated[int, Field(ge=8, le=1024, multiple_of=8)] = 24
    steps: Count = 2_349
    batch: Count = 512
    width: Width = 160
    layers: Count = 14
    lr: Annotated[float, Field(gt=0)] = 1.6e-3
    save_seconds: Annotated[float, Field(ge=0)] = 60.0
