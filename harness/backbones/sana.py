"""Sana (Xie et al., 2024): linear self-attention, cross-attention to the text, and an MLP with a convolution in it.

Linear attention on a subset sums over its tokens alone. The MLP (GLUMBConv) widens each token by itself, convolves each
channel with its neighbours, 3 x 3, and narrows each token again. On a subset, the widening and the narrowing run on its
tokens alone, and the convolution on the grid, where there is zero at the places of all other tokens: they are what the
convolution takes to lie beyond the image's border. The convolution has 9 multiplications per channel, the others have
D: at 1600M parameters it is 0.3 % of the MLP, so that convolving the whole grid costs next to nothing.

Letters: B batch, N tokens, K kept tokens, D width, C hidden channels, h x w grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.models.transformers.sana_transformer import SanaTransformerBlock
from torch import Tensor, nn

from harness.backbones.base import Backbone
from harness.errors import UserError
from harness.spec import Advice, Call, Grid, Part

# diffusers' caches look up blocks by class and lack this one, whose output is one tensor
TransformerBlockRegistry.register(SanaTransformerBlock, TransformerBlockMetadata(return_hidden_states_index=0))
_PARTS: dict[Part, str] = {"self_attention": "attn1", "cross_attention": "attn2", "mlp": "ff"}


class Sana(Backbone):
    """`SanaTransformer2DModel`. Its attention has no map, and it has no names for keys that count several times."""

    classes = frozenset({"SanaTransformer2DModel"})
    uses_positions = True

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__(transformer)
        self._places: Tensor | None = None  # (B, K) of the block that runs on a subset
        self.timestep_unit = 1 / float(getattr(transformer.config, "timestep_scale", 1.0))

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return self.transformer.transformer_blocks  # type: ignore[return-value]

    @property
    def width(self) -> int:
        config: Any = self.transformer.config
        return int(config.num_attention_heads * config.attention_head_dim)

    def module(self, layer: int, part: Part) -> nn.Module:
        block = self.blocks[layer]
        return block if part == "block" else getattr(block, _PARTS[part])

    def grid_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Grid:
        latents = args[0] if args else kwargs["hidden_states"]  # (B, c, H, W)
        patch = self.transformer.config.patch_size  # type: ignore[union-attr]
        return Grid(latents.shape[-2] // patch, latents.shape[-1] // patch)

    def linear_names(self) -> list[str]:
        """Of the attentions: the MLP has convolutions."""
        return [f"{a}.{p}" for a in ("attn1", "attn2") for p in ("to_q", "to_k", "to_v", "to_out.0")]

    def inputs(
        self, rows: int, *, text_tokens: int = 120, size: int | None = None, tokens: int | None = None
    ) -> dict[str, Any]:
        if tokens is not None:
            raise UserError(f"{type(self).__name__} generates all tokens of its canvas; give a size instead")
        config: Any = self.transformer.config
        like, side = next(self.transformer.parameters()), size or config.sample_size

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, device=like.device, dtype=like.dtype)

        given = {
            "hidden_states": draw(rows, config.in_channels, side, side),
            "encoder_hidden_states": draw(rows, text_tokens, config.caption_channels),
            "encoder_attention_mask": torch.ones(rows, text_tokens, device=like.device, dtype=like.dtype),
            "timestep": torch.full((rows,), 500.0, device=like.device),
            "return_dict": False,
        }
        return given | ({"guidance": draw(rows)} if config.guidance_embeds else {})

    # -- the MLP on the grid -------------------------------------------------------------------------------------

    @contextmanager
    def advise(self, part: Part, advice: Advice, layers: Sequence[int] | None = None) -> Iterator[None]:
        """As in `Backbone`; around blocks, the MLPs inside come along, which have to know where a subset stands."""
        with ExitStack() as stack:
            if part == "block":
                stack.enter_context(super().advise("mlp", _idle, layers))
            stack.enter_context(super().advise(part, advice, layers))
            yield

    def split_streams(
        self, layer: int, part: Part, hidden_states: Tensor, kwargs: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        if part == "mlp":
            hidden_states = hidden_states.flatten(2).transpose(1, 2)  # (B, D, h, w) -> (B, N, D)
        return hidden_states, None

    def merge_streams(self, layer: int, part: Part, image: Tensor, text: Tensor | None) -> Any:
        return image.transpose(1, 2)[:, :, None] if part == "mlp" else image  # (B, D, 1, N): the block flattens it

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
            return self._mlp(self.module(layer, part), original, x, self._places if index is None else index), None
        if part != "block":
            return original(x, **kwargs), None
        before, self._places = self._places, index
        try:
            return original(x, **{**kwargs, "height": 1, "width": x.shape[1]}), None
        finally:
            self._places = before

    def _mlp(self, mlp: Any, original: Callable[..., Any], x: Tensor, index: Tensor | None) -> Tensor:
        """The MLP of tokens x (B, K, D) at index (B, K); None: all of the grid. Raises UserError for a subset whose
        places are unknown."""
        grid = self.grid
        if index is None:
            if x.shape[1] != grid.tokens:
                raise UserError("Sana's MLP has to know where tokens stand: run a subset with its index")
            out: Tensor = original(x.transpose(1, 2).unflatten(2, (grid.height, grid.width)))  # (B, D, h, w)
            return out.flatten(2).transpose(1, 2)
        places = index[:, None]  # (B, 1, K)
        wide = mlp.nonlinearity(mlp.conv_inverted(x.transpose(1, 2)[:, :, None]))[:, :, 0]  # (B, 2 C, K)
        places = places.expand(-1, wide.shape[1], -1)
        canvas = wide.new_zeros(*wide.shape[:2], grid.tokens).scatter(2, places, wide)
        mixed = mlp.conv_depth(canvas.unflatten(2, (grid.height, grid.width)))  # (B, 2 C, h, w)
        inner, gate = mixed.flatten(2).gather(2, places)[:, :, None].chunk(2, dim=1)  # (B, C, 1, K)
        narrow = mlp.conv_point(inner * mlp.nonlinearity(gate))  # (B, D, 1, K)
        return narrow[:, :, 0].transpose(1, 2)


def _idle(call: Call) -> Tensor:
    return call.run(call.x)
