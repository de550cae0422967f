"""Lazy Diffusion (Nitzan et al., ECCV 2024): PixArt's blocks on the tokens that are generated, and its ViT encoder.

`call.grid` is the whole canvas and `call.index` says which of its tokens there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from harness.backbones.pixart import PixArt
from harness.spec import Grid, Part


class LazyPixArt(PixArt):
    """`harness.models.lazy.LazyPixArt`."""

    classes = frozenset({"LazyPixArt"})

    def grid_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Grid:
        config = self.transformer.config
        side = config.sample_size // config.patch_size  # type: ignore[union-attr,operator]
        return Grid(side, side)

    def index_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
        return kwargs["index"] if "index" in kwargs else args[3]


class LazyEncoder(LazyPixArt):
    """`harness.models.lazy.LazyEncoder`: its blocks have no cross-attention."""

    classes = frozenset({"LazyEncoder"})
    parts: ClassVar[frozenset[Part]] = frozenset({"block", "self_attention", "mlp"})

    def index_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
        index: Tensor = kwargs["index"] if "index" in kwargs else args[1]
        return None if index.shape[1] == self.grid_of(args, kwargs).tokens else index

    def linear_names(self) -> list[str]:
        return [name for name in super().linear_names() if not name.startswith("attn2")]
