"""Lazy Diffusion's networks (Nitzan et al., ECCV 2024, Sec. 3), built from diffusers' own blocks.

A ViT encoder sees the masked image once. A PixArt decoder denoises only the tokens to generate: of the encoder's
tokens it takes those at the same places, and its input projection reads both, joined along the channels.

Letters: B batch, N tokens of the canvas, M seen tokens, K generated tokens, C latent channels, p patch size, D width,
E the encoder's width, L text tokens.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin, PixArtTransformer2DModel
from diffusers.configuration_utils import FrozenDict, register_to_config
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import PatchEmbed
from torch import Tensor, nn


def pack(latents: Tensor, patch: int) -> Tensor:
    """Latents (B, C, h, w) as tokens (B, N, C p p), row by row."""
    return F.unfold(latents, patch, stride=patch).transpose(1, 2)


def pick(x: Tensor, index: Tensor) -> Tensor:
    """Rows (B, K, D) of x (B, N, D) at index (B, K)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def at(x: Tensor, places: Tensor, index: Tensor) -> Tensor:
    """Of tokens x (B, M, D) that stand at places (B, M), ascending, those at index (B, K): (B, K, D)."""
    return pick(x, torch.searchsorted(places.contiguous(), index.contiguous()))


def embed(patches: PatchEmbed, tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens (B, K, C p p) at places index (B, K) of the canvas, embedded: (B, K, D)."""
    x = F.linear(tokens, patches.proj.weight.flatten(1), patches.proj.bias)
    return (x + patches.pos_embed[0][index]).to(tokens.dtype)


class LazyEncoder(ModelMixin, ConfigMixin):
    """The ViT that reads the masked image: latents whose masked pixels were painted over, and the mask's share of each
    latent as a further channel."""

    @register_to_config
    def __init__(
        self,
        num_attention_heads: int = 16,
        attention_head_dim: int = 72,
        in_channels: int = 5,
        num_layers: int = 28,
        sample_size: int = 128,
        patch_size: int = 2,
        interpolation_scale: float = 1.0,
    ) -> None:
        super().__init__()
        width = num_attention_heads * attention_head_dim
        self.pos_embed = PatchEmbed(
            sample_size, sample_size, patch_size, in_channels, width, interpolation_scale=interpolation_scale
        )
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(
                width, num_attention_heads, attention_head_dim, activation_fn="gelu-approximate", attention_bias=True
            )
            for _ in range(num_layers)
        )
        self.norm_out = nn.LayerNorm(width)

    def forward(self, hidden_states: Tensor, index: Tensor) -> Tensor:
        """Tokens (B, M, (C + 1) p p) at places index (B, M) of the canvas -> context (B, M, E)."""
        x = embed(self.pos_embed, hidden_states, index)
        for block in self.transformer_blocks:
            x = block(x)
        return self.norm_out(x)


class LazyPixArt(PixArtTransformer2DModel):
    """PixArt on a subset of the canvas' tokens, with the encoder's context. It starts as PixArt on that subset: the
    context's part of the input projection, `context_proj`, is zero at first."""

    @register_to_config
    def __init__(
        self,
        num_attention_heads: int = 16,
        attention_head_dim: int = 72,
        in_channels: int = 4,
        out_channels: int | None = 8,
        num_layers: int = 28,
        cross_attention_dim: int | None = 1152,
        caption_channels: int | None = 4096,
        sample_size: int = 128,
        patch_size: int = 2,
        interpolation_scale: float | None = None,
        use_additional_conditions: bool | None = False,
        context_channels: int = 1152,
    ) -> None:
        own = dict(self.config)
        super().__init__(
            num_attention_heads=num_attention_heads, attention_head_dim=attention_head_dim, in_channels=in_channels,
            out_channels=out_channels, num_layers=num_layers, cross_attention_dim=cross_attention_dim,
            caption_channels=caption_channels, sample_size=sample_size, patch_size=patch_size,
            interpolation_scale=interpolation_scale, use_additional_conditions=use_additional_conditions,
        )  # fmt: skip
        width = num_attention_heads * attention_head_dim
        self.context_proj = nn.Linear(context_channels, width, bias=False)
        nn.init.zeros_(self.context_proj.weight)
        self._internal_dict = FrozenDict(own)  # without PixArt's further settings, which this class takes no values for

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        timestep: Tensor,
        index: Tensor,
        context: Tensor,
        encoder_attention_mask: Tensor | None = None,
        added_cond_kwargs: dict[str, Any] | None = None,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """Noised tokens (B, K, C p p) at places index (B, K), text (B, L, D), timestep (B,) and context (B, K, E) ->
        what the model predicts for them, (B, K, C p p), with learned variances behind where it has them."""
        if encoder_attention_mask is not None:
            bias = (1 - encoder_attention_mask.to(hidden_states.dtype)) * -10000.0
            encoder_attention_mask = bias[:, None]
        batch, width = len(hidden_states), self.inner_dim
        x = embed(self.pos_embed, hidden_states, index)
        x = x + self.context_proj(context.to(x.dtype))
        times, embedded = self.adaln_single(
            timestep, added_cond_kwargs or {}, batch_size=batch, hidden_dtype=hidden_states.dtype
        )
        text = self.caption_projection(encoder_hidden_states).view(batch, -1, width)
        for block in self.transformer_blocks:
            x = block(
                x, encoder_hidden_states=text, encoder_attention_mask=encoder_attention_mask, timestep=times
            )  # fmt: skip
        shift, scale = (self.scale_shift_table[None] + embedded[:, None]).chunk(2, dim=1)
        x = self.proj_out(self.norm_out(x) * (1 + scale) + shift)  # (B, K, p p C), as PixArt lays it out
        patch = self.config.patch_size
        return (x.view(batch, -1, patch * patch, self.out_channels).transpose(2, 3).flatten(2),)
