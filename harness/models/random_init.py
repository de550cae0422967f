"""True architectures with random weights, for cost alone. On the meta device they take no memory.

Sizes are those of the published configurations. Lazy Diffusion's decoder is PixArt-alpha's; that its encoder has as
many blocks of the same width is our assumption.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import PixArtTransformer2DModel
from torch import nn

from harness.errors import unknown
from harness.models.lazy import LazyEncoder, LazyPixArt

_XL: dict[str, Any] = {
    "num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": 8, "num_layers": 28,
    "cross_attention_dim": 1152, "caption_channels": 4096, "patch_size": 2,
}  # fmt: skip
_ENCODER = {"num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 5, "num_layers": 28, "patch_size": 2}
_PARTS: dict[str, dict[str, tuple[type[nn.Module], dict[str, Any]]]] = {
    "pixart-alpha-1024": {
        "transformer": (PixArtTransformer2DModel, {**_XL, "sample_size": 128, "use_additional_conditions": True})
    },
    "pixart-sigma-512": {
        "transformer": (PixArtTransformer2DModel, {**_XL, "sample_size": 64, "use_additional_conditions": False})
    },
    "lazydiffusion-1024": {
        "transformer": (LazyPixArt, {**_XL, "sample_size": 128, "context_channels": 1152}),
        "encoder": (LazyEncoder, {**_ENCODER, "sample_size": 128}),
    },
}


def names() -> list[str]:
    return sorted(_PARTS)


def build(name: str, part: str = "transformer", *, device: str = "meta", dtype: torch.dtype = torch.float32) -> Any:
    """A part of a model with random weights, created on the device in that precision. Raises UserError for an unknown
    name or part."""
    if name not in _PARTS:
        raise unknown("architecture", name, _PARTS)
    if part not in _PARTS[name]:
        raise unknown(f"part of {name}", part, _PARTS[name])
    kind, config = _PARTS[name][part]
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return kind(**config).eval()
    finally:
        torch.set_default_dtype(before)
