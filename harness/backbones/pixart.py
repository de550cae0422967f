"""PixArt-alpha and PixArt-Sigma (Chen et al., 2023 and 2024): single-stream blocks with cross-attention to the text.

The conditioning is per sample, never per token, and positions are added before the first block: a block runs as it
is on any subset of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from harness.backbones.base import Backbone
from harness.backbones.weights import require_own_layers
from harness.errors import UserError
from harness.kernels.routing import put_gated, take_modulated
from harness.spec import Call, Grid, Part

_PARTS: dict[Part, str] = {"self_attention": "attn1", "cross_attention": "attn2", "mlp": "ff"}


class PixArt(Backbone):
    """`PixArtTransformer2DModel`."""

    classes = frozenset({"PixArtTransformer2DModel"})
    capabilities = frozenset({"attention maps", "narrower blocks", "weighed keys"})
    norm_type: ClassVar[str] = "ada_norm_single"  # of its blocks, by diffusers' name

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

    def inputs(
        self, rows: int, *, text_tokens: int = 120, size: int | None = None, tokens: int | None = None
    ) -> dict[str, Any]:
        if tokens is not None:
            raise UserError(f"{type(self).__name__} generates all tokens of its canvas; give a size instead")
        config: Any = self.transformer.config
        side = size or config.sample_size
        return {
            "hidden_states": self._random(rows, config.in_channels, side, side),
            **self._conditioned(rows, text_tokens),
        }

    def _conditioned(self, rows: int, text_tokens: int) -> dict[str, Any]:
        """Text, timestep and image size for PixArt's forward."""
        config: Any = self.transformer.config
        sized = self.transformer.use_additional_conditions  # what a config leaves open depends on its size
        like = self._random(rows)
        return {
            "encoder_hidden_states": self._random(rows, text_tokens, config.caption_channels),
            "encoder_attention_mask": torch.ones(rows, text_tokens, device=like.device, dtype=like.dtype),
            "timestep": torch.full((rows,), 500.0, device=like.device),
            "added_cond_kwargs": {
                "resolution": self._random(rows, 2) if sized else None,
                "aspect_ratio": self._random(rows, 1) if sized else None,
            },
            "return_dict": False,
        }

    def _random(self, *shape: int) -> Tensor:
        like = next(self.transformer.parameters())
        return torch.randn(shape, device=like.device, dtype=like.dtype)

    def key_weight_kwargs(self, sizes: Tensor) -> dict[str, Any]:
        return {"attention_mask": sizes.log()[:, None]}  # (B, 1, N), added to the scores

    def attend(self, call: Call) -> tuple[Tensor, Tensor]:
        attention: Any = self.module(call.layer, "self_attention")
        heads = attention.heads
        query, key, value = (
            project(call.x).unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, heads, N, D / heads)
            for project in (attention.to_q, attention.to_k, attention.to_v)
        )
        share = ((query @ key.transpose(-1, -2)) * attention.scale).softmax(dim=-1)  # (B, heads, N, N)
        out = (share @ value).transpose(1, 2).flatten(2)
        return attention.to_out[0](out), share

    def run_rows(self, layer: int, kwargs: Mapping[str, Any]) -> partial[Tensor] | None:
        from diffusers.models.attention import BasicTransformerBlock

        block: Any = self.blocks[layer]
        if type(block) is not BasicTransformerBlock or block.norm_type != self.norm_type:
            return None
        norm = self._norms(block)[0]
        plain = type(norm) is nn.LayerNorm and norm.weight is None
        grounded = "gligen" in (kwargs.get("cross_attention_kwargs") or {})
        if not plain or grounded or block.pos_embed is not None or block._chunk_size is not None:
            return None
        if any(map(_changed, (block.norm1, norm))):  # their forward is not called
            return None
        return partial(self._run_rows, block, kwargs)

    @classmethod
    def _run_rows(
        cls, block: Any, kwargs: Mapping[str, Any], x: Tensor, order: Tensor, k: int, factor: Tensor | None = None
    ) -> Tensor:
        """BasicTransformerBlock.forward with its first norm and its last addition fused. It has to follow diffusers'
        own, line by line; the parts are called as modules, with whatever is around them."""
        first, second = cls._norms(block)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = cls._modulation(block, x, kwargs)  # (B, 1, D) each
        text, attention = kwargs.get("encoder_hidden_states"), kwargs.get("cross_attention_kwargs") or {}
        rows, modulated = take_modulated(x, order[:, :k], shift, scale, first.eps)  # (B, K, D)
        rows = rows + gate * block.attn1(
            modulated,
            encoder_hidden_states=text if block.only_cross_attention else None,
            attention_mask=kwargs.get("attention_mask"),
            **attention,
        )
        if block.attn2 is not None:
            mask = kwargs.get("encoder_attention_mask")
            rows = block.attn2(rows, encoder_hidden_states=text, attention_mask=mask, **attention) + rows
        branch = block.ff(second(rows) * (1 + mlp_scale) + mlp_shift)
        return put_gated(x, order, rows, branch, mlp_gate, factor)

    @staticmethod
    def _norms(block: Any) -> tuple[nn.LayerNorm, nn.LayerNorm]:
        """Before self-attention and before the MLP; cross-attention has none."""
        return block.norm1, block.norm2

    @staticmethod
    def _modulation(block: Any, x: Tensor, kwargs: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Shift, scale and gate of self-attention, and of the MLP, (B, 1, D) each."""
        table = block.scale_shift_table[None] + kwargs["timestep"].reshape(len(x), 6, -1)  # (B, 6, D)
        return table.chunk(6, dim=1)

    def extent(self) -> tuple[int, int]:
        block: Any = self.blocks[0]
        return block.attn1.heads, block.ff.net[2].in_features

    @contextmanager
    def masked_width(self, heads: Sequence[Tensor], channels: Sequence[Tensor]) -> Iterator[None]:
        hooks = []
        for block, some, inner in zip(self.blocks, heads, channels, strict=True):
            hooks.append(block.attn1.to_out[0].register_forward_pre_hook(_times(some)))  # type: ignore[union-attr,index]
            hooks.append(block.ff.net[2].register_forward_pre_hook(_times(inner)))  # type: ignore[union-attr,index]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def pruned_width(self, heads: Sequence[Tensor], channels: Sequence[Tensor]) -> Iterator[None]:
        require_own_layers(self.transformer)
        with ExitStack() as stack:
            for block, some, inner in zip(self.blocks, heads, channels, strict=True):
                attention: Any = block.attn1
                size = attention.to_q.out_features // attention.heads
                rows = (some[:, None] * size + torch.arange(size, device=some.device)).flatten()
                for linear in (attention.to_q, attention.to_k, attention.to_v):
                    stack.enter_context(_sliced(linear, rows, 0))
                stack.enter_context(_sliced(attention.to_out[0], rows, 1))
                before = attention.heads
                attention.heads = len(some)
                stack.callback(setattr, attention, "heads", before)
                stack.enter_context(_sliced(block.ff.net[0].proj, inner, 0))  # type: ignore[union-attr,index,arg-type]
                stack.enter_context(_sliced(block.ff.net[2], inner, 1))  # type: ignore[union-attr,index,arg-type]
            yield


def _changed(module: nn.Module) -> bool:
    """Whether somebody has put something around a module's forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def _times(factor: Tensor) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
    """Inputs (B, N, C) whose channels, in equal groups, are multiplied by a factor (groups,)."""

    def hook(_module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        x = args[0]
        return ((x.unflatten(-1, (len(factor), -1)) * factor[:, None].to(x)).flatten(-2),)

    return hook


@contextmanager
def _sliced(linear: nn.Linear, index: Tensor, dim: int) -> Iterator[None]:
    """A linear layer with these outputs (dim 0) or inputs (dim 1) alone; outside, the original tensors themselves."""
    held = [(linear.weight, linear.weight.data)]
    if dim == 0 and linear.bias is not None:
        held.append((linear.bias, linear.bias.data))
    try:
        for parameter, data in held:
            parameter.data = data.index_select(dim if data.ndim == 2 else 0, index)
        yield
    finally:
        for parameter, data in held:
            parameter.data = data
