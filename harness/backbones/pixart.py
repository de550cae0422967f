"""PixArt-alpha and PixArt-Sigma (Chen et al., 2023 and 2024): single-stream blocks with cross-attention to the text.

The conditioning is per sample, never per token, and positions are added before the first block: a block runs as it
is on any subset of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from harness.backbones.base import Backbone
from harness.spec import Grid, Part

_PARTS: dict[Part, str] = {"self_attention": "attn1", "cross_attention": "attn2", "mlp": "ff"}


class PixArt(Backbone):
    """`PixArtTransformer2DModel`."""

    classes = frozenset({"PixArtTransformer2DModel"})

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return self.transformer.transformer_blocks  # type: ignore[return-value]

    @property
    def width(self) -> int:
        config = self.transformer.config
        return config.num_attention_heads * config.attention_head_dim  # type: ignore[union-attr,operator,return-value]

    def module(self, layer: int, part: Part) -> nn.Module:
        block = self.blocks[layer]
        return block if part == "block" else getattr(block, _PARTS[part])

    def grid_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Grid:
        latents = args[0] if args else kwargs["hidden_states"]  # (B, C, H, W)
        patch = self.transformer.config.patch_size  # type: ignore[union-attr]
        return Grid(latents.shape[-2] // patch, latents.shape[-1] // patch)

    def linear_names(self) -> list[str]:
        attention = [f"{a}.{p}" for a in ("attn1", "attn2") for p in ("to_q", "to_k", "to_v", "to_out.0")]
        return [*attention, "ff.net.0.proj", "ff.net.2"]
