"""Hand formulas for the multiply-accumulates (MACs) of PixArt-like transformers: the check of the traced counts.

Letters: N image tokens, M text tokens, D width, L layers, P patch side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_TIME_CHANNELS = 256  # sinusoidal features of diffusers' timestep and size embeddings
_LAYER_NORM = 4  # fvcore's rule: operations per element of a layer norm without affine parameters


@dataclass(frozen=True)
class BlockMacs:
    """MACs of one block for one sample: `*_linear` in projections, `*_attention` inside fused attention."""

    self_linear: int
    self_attention: int
    cross_linear: int
    cross_attention: int
    mlp: int

    @property
    def linear(self) -> int:
        """Without fused attention."""
        return self.self_linear + self.cross_linear + self.mlp

    @property
    def total(self) -> int:
        """With it."""
        return self.linear + self.self_attention + self.cross_attention


def block_macs(
    tokens: int, width: int, text_tokens: int, mlp_ratio: float = 4, text_width: int | None = None
) -> BlockMacs:
    """MACs of a block (self-attention, cross-attention to text, MLP) on `tokens` image tokens of `width`.

    `text_width` is the width of the text states where it is not `width`.
    """
    square = width * width
    return BlockMacs(
        self_linear=4 * tokens * square,  # query, key, value, output
        self_attention=2 * tokens * tokens * width,  # scores, mix
        cross_linear=2 * tokens * square + 2 * text_tokens * width * (text_width or width),  # query, output; key, value
        cross_attention=2 * tokens * text_tokens * width,
        mlp=int(2 * mlp_ratio * tokens * square),
    )


def pixart_macs(
    config: Mapping[str, Any],
    tokens_per_layer: Sequence[int] | None,
    text_tokens: int,
    latent_size: int | tuple[int, int],
    fused_attention: bool = True,
) -> int:
    """MACs of one forward of a diffusers `PixArtTransformer2DModel`, batch 1.

    `config` is the model's own. `tokens_per_layer` has the image tokens that each block processes; None means all of
    them everywhere. `latent_size` is the side of the latents, or (height, width). Raises ValueError where the layers
    do not match.
    """
    width, layers = _width(config), config["num_layers"]
    tokens = _tokens(config, latent_size)
    per_layer = [tokens] * layers if tokens_per_layer is None else list(tokens_per_layer)
    if len(per_layer) != layers:
        raise ValueError(f"tokens_per_layer has {len(per_layer)} entries for {layers} layers")
    text_width = config["cross_attention_dim"]
    blocks = (block_macs(n, width, text_tokens, text_width=text_width) for n in per_layer)
    inside = sum(block.total if fused_attention else block.linear for block in blocks)
    return inside + _ends(config, tokens, text_tokens)


def pixart_norm_macs(config: Mapping[str, Any], latent_size: int | tuple[int, int]) -> int:
    """What fvcore adds for the layer norms (two per block and the last one) of a dense forward, batch 1."""
    return _LAYER_NORM * (2 * config["num_layers"] + 1) * _tokens(config, latent_size) * _width(config)


def _width(config: Mapping[str, Any]) -> int:
    return config["num_attention_heads"] * config["attention_head_dim"]


def _tokens(config: Mapping[str, Any], latent_size: int | tuple[int, int]) -> int:
    height, width = (latent_size, latent_size) if isinstance(latent_size, int) else latent_size
    return (height // config["patch_size"]) * (width // config["patch_size"])


def _ends(config: Mapping[str, Any], tokens: int, text_tokens: int) -> int:
    """Everything outside the blocks: patch embedding, conditioning, caption projection, output."""
    width, patch = _width(config), config["patch_size"] ** 2
    out_channels = config["out_channels"] or config["in_channels"]
    patch_embed = tokens * width * config["in_channels"] * patch
    conditioning = _TIME_CHANNELS * width + width * width + width * 6 * width  # timestep MLP, adaLN-single
    sizes = config["use_additional_conditions"]
    if sizes is None:
        sizes = config["sample_size"] == 128
    if sizes:
        third = width // 3
        conditioning += 3 * (_TIME_CHANNELS * third + third * third)  # height, width and aspect ratio
    caption = config["caption_channels"]
    caption_projection = text_tokens * (caption * width + width * width) if caption else 0
    return patch_embed + conditioning + caption_projection + tokens * width * patch * out_channels
