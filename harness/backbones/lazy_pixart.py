"""Lazy Diffusion's decoder (Nitzan et al., ECCV 2024): PixArt's blocks on the tokens that are generated.

`call.grid` is the whole canvas and `call.index` says which of its tokens there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from harness.backbones.pixart import PixArt
from harness.spec import Grid


class LazyPixArt(PixArt):
    """`harness.models.lazy.LazyPixArt`."""

    classes = frozenset({"LazyPixArt"})

    def grid_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Grid:
        config = self.transformer.config
        side = config.sample_size // config.patch_size  # type: ignore[union-attr,operator]
        return Grid(side, side)

    def index_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
        return kwargs["index"] if "index" in kwargs else args[3]
