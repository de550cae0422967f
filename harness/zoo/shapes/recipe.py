"""The recipe of `shapes`: how long each stage trains, and how wide the DiT is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Lengths of the stages, in steps (and scenes for the latent cache)."""

    vae_steps: int = 5_000
    text_steps: int = 900
    judge_steps: int = 600
    scenes: int = 32_768
    pooled_steps: int = 900
    steps: int = 1_400
    batch: int = 32
    width: int = 96
    layers: int = 8
    heads: int = 3


def rows(step: int, size: int) -> range:
    """The scenes of a step that sees each scene once."""
    return range(step * size, (step + 1) * size)
