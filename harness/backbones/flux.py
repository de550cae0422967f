"""Flux (Black Forest Labs, 2024): double blocks, with streams of their own for image and text, then single blocks on
both streams joined, text first. Layers are counted through both.

Single blocks have one output projection for attention and MLP together: they have no separate `mlp`, and their
`self_attention` ends before that projection. Rotary embeddings turn queries and keys by their places, so that a subset
of the image tokens takes its own rows of the tables along, for each sample its own.

Letters: B batch, N image tokens, K kept tokens, L text tokens, S all tokens, D width, E head width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isqrt
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.backbones.joint_attention import TEXT, Joint
from harness.errors import UserError
from harness.spec import Grid, Part

_ROTARY = "image_rotary_emb"
_PROCESSOR = "FluxAttnProcessor"
_SIDE = 128  # of the latents of 1024 x 1024 pixels; the config names no size


class Flux(Joint):
    """`FluxTransformer2DModel`."""

    classes = frozenset({"FluxTransformer2DModel"})
    parts: ClassVar[frozenset[Part]] = frozenset({"block", "self_attention"})
    batched_cfg = False
    rows_per_image = 1
    uses_positions = True
    timestep_unit = 1000.0

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__(transformer)
        self._text_tokens = 0
        self._ids: tuple[Tensor, Grid] | None = None

    @property
    def blocks(self) -> Sequence[nn.Module]:
        model: Any = self.transformer
        return [*model.transformer_blocks, *model.single_transformer_blocks]

    @property
    def width(self) -> int:
        return self.transformer.inner_dim  # type: ignore[return-value]

    def parts_of(self, layer: int) -> frozenset[Part]:
        return self.parts if self._single(layer) else self.parts | {"mlp"}

    def module(self, layer: int, part: Part) -> nn.Module:
        block = self.blocks[layer]
        return block if part == "block" else block.attn if part == "self_attention" else block.ff  # type: ignore[return-value]

    def branches(self, layer: int) -> tuple[list[nn.Module], list[nn.Module]]:
        block: Any = self.blocks[layer]
        return ([block.proj_out], [block.attn, block.proj_mlp]) if self._single(layer) else super().branches(layer)

    def grid_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Grid:
        ids = kwargs["img_ids"] if "img_ids" in kwargs else args[4]  # (N, 3) or (B, N, 3): 0, row, column
        if self._ids is None or self._ids[0] is not ids:  # one look per image: it waits for the device
            self._ids = ids, _grid(ids)
        return self._ids[1]

    def linear_names(self) -> list[str]:
        joint = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
        mlps = [f"{name}.{layer}" for name in ("ff", "ff_context") for layer in ("net.0.proj", "net.2")]
        return [*(f"attn.{name}" for name in joint), *mlps, "proj_mlp", "proj_out"]

    def inputs(
        self, rows: int, *, text_tokens: int = 120, size: int | None = None, tokens: int | None = None
    ) -> dict[str, Any]:
        self._whole_canvas(tokens)
        side, config, like = (size or _SIDE) // 2, self.transformer.config, self._random(rows)
        places = torch.cartesian_prod(torch.zeros(1), *[torch.arange(float(side))] * 2).to(like)
        guidance = torch.full((rows,), 3.5, device=like.device, dtype=like.dtype)
        return {
            "hidden_states": self._random(rows, side * side, config.in_channels),  # type: ignore[union-attr,arg-type]
            "img_ids": places,
            "txt_ids": torch.zeros(text_tokens, 3, device=like.device, dtype=like.dtype),
            **({"guidance": guidance} if config.guidance_embeds else {}),  # type: ignore[union-attr]
            **self._conditioned(rows, text_tokens, 0.5),
        }

    def _single(self, layer: int) -> bool:
        return layer >= len(self.transformer.transformer_blocks)  # type: ignore[arg-type]

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._text_tokens = (kwargs[TEXT] if TEXT in kwargs else args[1]).shape[1]
        super()._enter(module, args, kwargs)

    def split_streams(
        self, layer: int, part: Part, hidden_states: Tensor, kwargs: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        if part == "self_attention" and self._single(layer):
            return hidden_states[:, self._text_tokens :], hidden_states[:, : self._text_tokens]
        return super().split_streams(layer, part, hidden_states, kwargs)

    def run_part(
        self,
        layer: int,
        part: Part,
        original: Callable[..., Any],
        x: Tensor,
        text: Tensor | None,
        kwargs: Mapping[str, Any],
        index: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        if part == "mlp":
            return super().run_part(layer, part, original, x, text, kwargs, index)
        assert text is not None
        count = text.shape[1]
        if index is not None:
            kwargs = {**kwargs, _ROTARY: tuple(_rows(table, index, count) for table in kwargs[_ROTARY])}
        elif kwargs[_ROTARY][0].shape[-2] != count + x.shape[1]:
            raise ValueError(
                f"the {part} of layer {layer} got {x.shape[1]} of its tokens and not their places, which rotary "
                "embeddings need: call run(x, index)"
            )
        with self._turned(layer, kwargs[_ROTARY][0].ndim == 3):
            if part == "block" or not self._single(layer):
                return super().run_part(layer, part, original, x, text, kwargs, None)
            out = original(torch.cat([text, x], 1), **kwargs)
        return out[:, count:], out[:, :count]

    def merge_streams(self, layer: int, part: Part, image: Tensor, text: Tensor | None) -> Any:
        if part == "self_attention" and self._single(layer):
            assert text is not None
            return torch.cat([text, image], 1)
        return super().merge_streams(layer, part, image, text)

    @contextmanager
    def _turned(self, layer: int, subset: bool) -> Iterator[None]:
        """The attention of a layer takes one table per sample while a subset runs."""
        attention: Any = self.module(layer, "self_attention")
        before = attention.processor
        if not subset or isinstance(before, _Placed):
            yield
            return
        if type(before).__name__ != _PROCESSOR:
            raise UserError(f"Flux runs no subsets of tokens through a {type(before).__name__}; take it off first")
        attention.processor = _Placed()
        try:
            yield
        finally:
            attention.processor = before


class _Placed:
    """Flux's attention with rotary tables (B, S, E), one per sample."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Any:
        assert image_rotary_emb is not None
        cos, sin = (table[:, None] for table in image_rotary_emb)  # (B, 1, S, E)

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (-1, attn.head_dim)).transpose(1, 2)  # (B, heads, tokens, E)

        q, k, v = (heads(one(hidden_states)) for one in (attn.to_q, attn.to_k, attn.to_v))
        q, k = attn.norm_q(q), attn.norm_k(k)
        if encoder_hidden_states is not None:
            added = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
            tq, tk, tv = (heads(one(encoder_hidden_states)) for one in added)
            q, k = torch.cat([attn.norm_added_q(tq), q], 2), torch.cat([attn.norm_added_k(tk), k], 2)
            v = torch.cat([tv, v], 2)
        q, k = _turn(q, cos, sin), _turn(k, cos, sin)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask).transpose(1, 2).flatten(2)  # (B, S, D)
        if encoder_hidden_states is None:
            return out
        count = encoder_hidden_states.shape[1]
        return attn.to_out[1](attn.to_out[0](out[:, count:])), attn.to_add_out(out[:, :count])


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each pair of neighbouring channels, turned by its angle (Su et al., 2021, RoFormer)."""
    pairs = x.unflatten(-1, (-1, 2)).float()
    across = torch.stack([-pairs[..., 1], pairs[..., 0]], -1).flatten(-2)
    return (x.float() * cos + across * sin).to(x.dtype)


def _rows(table: Tensor, index: Tensor, text_tokens: int) -> Tensor:
    """Of a table (S, E) or (B, S, E), the rows of the text and of the image tokens at index (B, K): (B, L + K, E)."""
    text = torch.arange(text_tokens, device=index.device).expand(len(index), -1)
    rows = torch.cat([text, index + text_tokens], 1)
    if table.ndim == 2:
        return table[rows]
    return table.gather(1, rows[..., None].expand(-1, -1, table.shape[-1]))


def _grid(ids: Tensor) -> Grid:
    """The grid of image ids (N, 3) or (B, N, 3). Raises UserError where they are none."""
    ids = ids[0] if ids.ndim == 3 else ids
    if ids.is_meta:  # no values there: the nearest thing to a square
        side = isqrt(len(ids))
        return Grid(side, side) if side * side == len(ids) else Grid(1, len(ids))
    height, width = (int(side) + 1 for side in ids[:, 1:].amax(0))
    if height * width != len(ids):
        raise UserError(
            f"Flux was given {len(ids)} image tokens whose ids span {height} x {width}; expected one grid, without "
            "further images beside it"
        )
    return Grid(height, width)
