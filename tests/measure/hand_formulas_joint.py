"""Hand formulas for the multiply-accumulates (MACs) of transformers with joint attention: SD3's and Flux's.

Letters: N image tokens, L text tokens, S all tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_TIME_CHANNELS = 256  # sinusoidal features of diffusers' timestep and guidance embeddings


def sd3_macs(
    config: Mapping[str, Any],
    tokens_per_layer: Sequence[int] | None,
    text_tokens: int,
    latent_size: int | tuple[int, int],
    fused_attention: bool = True,
) -> int:
    """MACs of one forward of a diffusers `SD3Transformer2DModel`, batch 1.

    `config` is the model's own. `tokens_per_layer` has the image tokens that each block processes; None means all of
    them everywhere. `latent_size` is the side of the latents, or (height, width). Raises ValueError where the layers
    do not match.
    """
    width, layers, patch = _width(config), config["num_layers"], config["patch_size"]
    height, across = (latent_size, latent_size) if isinstance(latent_size, int) else latent_size
    tokens = (height // patch) * (across // patch)
    per_layer = _per_layer(tokens_per_layer, tokens, layers)
    total = 0
    for layer, image in enumerate(per_layer):
        last, dual = layer == layers - 1, layer in config["dual_attention_layers"]
        total += _stream(image, width, modulations=9 if dual else 6)
        # Behind the last block nothing reads the text: it gives keys, values and queries, and that is all.
        total += (3 * text_tokens + 2) * width**2 if last else _stream(text_tokens, width)
        if dual:
            total += 4 * image * width**2
        if fused_attention:
            total += 2 * (image + text_tokens) ** 2 * width + (2 * image**2 * width if dual else 0)
    pixels = patch**2
    total += tokens * width * pixels * (config["in_channels"] + (config["out_channels"] or config["in_channels"]))
    return total + _conditioning(config, text_tokens, config["caption_projection_dim"]) + 2 * width**2


def flux_macs(
    config: Mapping[str, Any],
    tokens_per_layer: Sequence[int] | None,
    text_tokens: int,
    tokens: int,
    fused_attention: bool = True,
) -> int:
    """MACs of one forward of a diffusers `FluxTransformer2DModel` on `tokens` image tokens, batch 1.

    `tokens_per_layer` counts through double blocks, then single ones. Raises ValueError where the layers do not match.
    """
    width, double, single = _width(config), config["num_layers"], config["num_single_layers"]
    per_layer = _per_layer(tokens_per_layer, tokens, double + single)
    total = 0
    for layer, image in enumerate(per_layer):
        every = image + text_tokens
        if layer < double:
            total += _stream(image, width) + _stream(text_tokens, width)
        else:
            total += (12 * every + 3) * width**2  # 3 in, 4 MLP in, 5 out of both; scale, shift and gate
        if fused_attention:
            total += 2 * every**2 * width
    ends = tokens * width * (config["in_channels"] + (config["out_channels"] or config["in_channels"]))
    guidance = _TIME_CHANNELS * width + width**2 if config["guidance_embeds"] else 0
    return total + ends + guidance + _conditioning(config, text_tokens, width) + 2 * width**2


def _stream(tokens: int, width: int, modulations: int = 6) -> int:
    """One stream of a block: query, key, value and output, MLP, and what modulates them, once per sample."""
    return (4 * tokens + 8 * tokens + modulations) * width**2


def _conditioning(config: Mapping[str, Any], text_tokens: int, text_width: int) -> int:
    """Timestep, pooled text and the text's own projection."""
    width = _width(config)
    times = _TIME_CHANNELS * width + width**2
    pooled = config["pooled_projection_dim"] * width + width**2
    return times + pooled + text_tokens * config["joint_attention_dim"] * text_width


def _width(config: Mapping[str, Any]) -> int:
    return config["num_attention_heads"] * config["attention_head_dim"]


def _per_layer(tokens_per_layer: Sequence[int] | None, tokens: int, layers: int) -> list[int]:
    found = [tokens] * layers if tokens_per_layer is None else list(tokens_per_layer)
    if len(found) != layers:
        raise ValueError(f"tokens_per_layer has {len(found)} entries for {layers} layers")
    return found
