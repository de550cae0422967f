"""DiT (Peebles and Xie, 2023): class-conditional single-stream blocks with adaLN-zero and no cross-attention.

Its blocks are those of PixArt without the text, and each embeds timestep and class for itself, per sample: a block runs
as it is on any subset of tokens. The model puts images together from square token grids alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from harness.backbones.pixart import PixArt
from harness.errors import UserError
from harness.spec import Part


class DiT(PixArt):
    """`DiTTransformer2DModel`.

    Under guidance DiTPipeline's batches hold the conditional half first, where `guided` promises the unconditional one:
    methods see no halves, and treat all samples alike.
    """

    classes = frozenset({"DiTTransformer2DModel"})
    parts: ClassVar[frozenset[Part]] = frozenset({"block", "self_attention", "mlp"})
    batched_cfg = False
    norm_type = "ada_norm_zero"

    def linear_names(self) -> list[str]:
        return [name for name in super().linear_names() if not name.startswith("attn2")]

    def inputs(
        self, rows: int, *, text_tokens: int = 120, size: int | None = None, tokens: int | None = None
    ) -> dict[str, Any]:
        if tokens is not None:
            raise UserError(f"{type(self).__name__} generates all tokens of its canvas; give a size instead")
        config: Any = self.transformer.config
        side = size or config.sample_size
        x = self._random(rows, config.in_channels, side, side)
        return {
            "hidden_states": x,
            "timestep": torch.full((rows,), 500, device=x.device),
            "class_labels": torch.arange(rows, device=x.device) % config.num_embeds_ada_norm,
            "return_dict": False,
        }

    @staticmethod
    def _norms(block: Any) -> tuple[nn.LayerNorm, nn.LayerNorm]:
        return block.norm1.norm, block.norm3

    @staticmethod
    def _modulation(block: Any, x: Tensor, kwargs: Mapping[str, Any]) -> tuple[Tensor, ...]:
        norm = block.norm1  # which embeds timestep and class for itself
        embedded = norm.emb(kwargs["timestep"], kwargs["class_labels"], hidden_dtype=x.dtype)
        return norm.linear(norm.silu(embedded))[:, None].chunk(6, dim=2)
