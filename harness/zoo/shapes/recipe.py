"""The recipe of `shapes`: how long each stage trains, and how wide the DiT is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

Count = Annotated[int, Field(ge=1, le=100_000_000)]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Lengths of the stages, in steps (and scenes for the latent cache)."""

    vae_steps: Count = 5_000
    text_steps: Count = 900
    judge_steps: Count = 600
    scenes: Count = 32_768
    pooled_steps: Count = 900
    steps: Count = 1_400
    batch: Count = 32
    width: Count = 96
    layers: Count = 8
    heads: Count = 3


def rows(step: int, size: int) -> range:
    """The scenes of a step that sees each scene once."""
    return range(step * size, (step + 1) * size)
