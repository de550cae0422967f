"""Stable Diffusion 3 and 3.5 (Esser et al., 2024): joint blocks, with streams of their own for image and text.

Positions are added before the first block, and the conditioning is per sample: a block runs as it is on any subset of
image tokens. `self_attention` is the joint attention; the second one of SD3.5-medium's blocks, among image tokens
alone, belongs to the block and is no part of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from harness.backbones.joint_attention import Joint
from harness.spec import Grid, Part

_PARTS: dict[Part, str] = {"self_attention": "attn", "mlp": "ff"}


class SD3(Joint):
    """`SD3Transformer2DModel`."""

    classes = frozenset({"SD3Transformer2DModel"})

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return self.transformer.transformer_blocks  # type: ignore[return-value]

    @property
    def width(self) -> int:
        return self.transformer.inner_dim  # type: ignore[return-value]

    def module(self, layer: int, part: Part) -> nn.Module:
        block = self.blocks[layer]
        return block if part == "block" else getattr(block, _PARTS[part])

    def grid_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Grid:
        latents = args[0] if args else kwargs["hidden_states"]  # (B, C, H, W)
        patch = self.transformer.config.patch_size  # type: ignore[union-attr]
        return Grid(latents.shape[-2] // patch, latents.shape[-1] // patch)

    def linear_names(self) -> list[str]:
        own = ("to_q", "to_k", "to_v", "to_out.0")
        joint = [*own, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
        second = [f"attn2.{name}" for name in own if any(block.use_dual_attention for block in self.blocks)]
        mlps = [f"{name}.{layer}" for name in ("ff", "ff_context") for layer in ("net.0.proj", "net.2")]
        return [*(f"attn.{name}" for name in joint), *second, *mlps]

    def inputs(
        self, rows: int, *, text_tokens: int = 120, size: int | None = None, tokens: int | None = None
    ) -> dict[str, Any]:
        self._whole_canvas(tokens)
        config: Any = self.transformer.config
        side = size or config.sample_size
        latents = self._random(rows, config.in_channels, side, side)
        return {"hidden_states": latents, **self._conditioned(rows, text_tokens, 500.0)}
