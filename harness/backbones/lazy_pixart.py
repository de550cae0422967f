"""Lazy Diffusion (Nitzan et al., ECCV 2024): PixArt's blocks on the tokens that are generated, and its ViT encoder.

`call.grid` is the whole canvas and `call.index` says which of its tokens there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from harness.backbones.pixart import PixArt
from harness.errors import UserError
from harness.renamed import module_attributes
from harness.spec import Grid, Part

if not TYPE_CHECKING:
    __getattr__ = module_attributes(__name__)


class LazyPixArtBackbone(PixArt):
    """`harness.models.lazy.LazyPixArt`."""

    classes = frozenset({"LazyPixArt"})

    def grid_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Grid:
        config = self.transformer.config
        side = config.sample_size // config.patch_size  # type: ignore[union-attr,operator]
        return Grid(side, side)

    def index_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
        return kwargs["index"] if "index" in kwargs else args[3]

    def inputs(
        self, rows: int, *, text_tokens: int = 120, size: int | None = None, tokens: int | None = None
    ) -> dict[str, Any]:
        config: Any = self.transformer.config
        index = self._places(rows, size, tokens)
        return {
            "hidden_states": self._random(*index.shape, config.in_channels * config.patch_size**2),
            "index": index,
            "context": self._random(*index.shape, config.context_channels),
            **self._conditioned(rows, text_tokens),
        }

    def _places(self, rows: int, size: int | None, tokens: int | None) -> Tensor:
        """The first `tokens` places of the canvas, (rows, tokens); all by default."""
        config: Any = self.transformer.config
        canvas = (config.sample_size // config.patch_size) ** 2
        if size not in (None, config.sample_size):
            raise UserError(f"{type(self.transformer).__name__} has one canvas, latents of side {config.sample_size}")
        if tokens is not None and not 0 < tokens <= canvas:
            raise UserError(f"{type(self.transformer).__name__} generates 1 to {canvas} tokens, not {tokens}")
        count = canvas if tokens is None else tokens
        return torch.arange(count, device=next(self.transformer.parameters()).device).expand(rows, count)


class LazyEncoderBackbone(LazyPixArtBackbone):
    """`harness.models.lazy.LazyEncoder`: its blocks have no cross-attention."""

    classes = frozenset({"LazyEncoder"})
    parts: ClassVar[frozenset[Part]] = frozenset({"block", "self_attention", "mlp"})

    def index_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
        index: Tensor = kwargs["index"] if "index" in kwargs else args[1]
        return None if index.shape[1] == self.grid_of(args, kwargs).tokens else index

    def linear_names(self) -> list[str]:
        return [name for name in super().linear_names() if not name.startswith("attn2")]

    def inputs(
        self, rows: int, *, text_tokens: int = 120, size: int | None = None, tokens: int | None = None
    ) -> dict[str, Any]:
        config: Any = self.transformer.config
        index = self._places(rows, size, tokens)
        return {"hidden_states": self._random(*index.shape, config.in_channels * config.patch_size**2), "index": index}
