"""What families with joint attention share: image tokens are routed, and the text stream goes along with every part.

A block takes image and text and gives (text, image); its attention gives (image, text). Letters: B batch, N image
tokens, L text tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from harness.backbones.base import Backbone
from harness.errors import UserError
from harness.spec import Part

TEXT = "encoder_hidden_states"


class Joint(Backbone):
    """A family whose blocks take their text as `encoder_hidden_states`."""

    parts: ClassVar[frozenset[Part]] = frozenset({"block", "self_attention", "mlp"})

    def branches(self, layer: int) -> tuple[list[nn.Module], list[nn.Module]]:
        adding, feeding = super().branches(layer)
        further = (getattr(self.blocks[layer], name, None) for name in ("ff_context", "attn2"))  # where a block has one
        return [*adding, *(one for one in further if one is not None)], feeding

    def split_streams(
        self, layer: int, part: Part, hidden_states: Tensor, kwargs: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        return hidden_states, None if part == "mlp" else kwargs[TEXT]

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
        out = original(x, **self.on_subset(kwargs, index))
        if part == "mlp":
            return out, None
        image, text_out = reversed(out) if part == "block" else out
        # The last block may have no use for the text and gives None: it comes out as it came, which nothing reads.
        return image, text if text_out is None else text_out

    def merge_streams(self, layer: int, part: Part, image: Tensor, text: Tensor | None) -> Any:
        if part == "mlp":
            return image
        return (text, image) if part == "block" else (image, text)

    def _random(self, *shape: int) -> Tensor:
        like = next(self.transformer.parameters())
        return torch.randn(shape, device=like.device, dtype=like.dtype)

    def _conditioned(self, rows: int, text_tokens: int, timestep: float) -> dict[str, Any]:
        """Text, pooled text and timestep of these families' forward."""
        config: Any = self.transformer.config
        like = self._random(rows)
        return {
            TEXT: self._random(rows, text_tokens, config.joint_attention_dim),
            "pooled_projections": self._random(rows, config.pooled_projection_dim),
            "timestep": torch.full((rows,), timestep, device=like.device, dtype=like.dtype),
            "return_dict": False,
        }

    def _whole_canvas(self, tokens: int | None) -> None:
        if tokens is not None:
            raise UserError(f"{type(self).__name__} generates all tokens of its canvas; give a size instead")
