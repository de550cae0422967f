"""True architectures with random weights, for cost alone. On the meta device they take no memory.

Sizes are those of the published configurations. Lazy Diffusion's decoder is PixArt-alpha's; that its encoder has as
many blocks of the same width is our assumption.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import UserError, unknown

_SEED = 0
_DRAWN = 1_000_003  # a prime: rows of common widths do not line up with its period
_SPREAD = 0.02


@dataclass(frozen=True)
class Architecture:
    """A published model. parts: name -> (class, its configuration). size: side of the latents. text_tokens: what
    `profile` takes by default, and where that number comes from."""

    parts: dict[str, tuple[str, dict[str, Any]]]
    size: int
    text_tokens: int
    text_source: str


_XL: dict[str, Any] = {
    "num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": 8, "num_layers": 28,
    "patch_size": 2,
}  # fmt: skip
_PIXART = {**_XL, "cross_attention_dim": 1152, "caption_channels": 4096}
_DIT = {**_XL, "norm_type": "ada_norm_zero", "num_embeds_ada_norm": 1000}
_SD3 = {
    "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "attention_head_dim": 64,
    "joint_attention_dim": 4096, "pooled_projection_dim": 2048, "pos_embed_max_size": 192,
}  # fmt: skip
_MAXIMUM = "the pipeline's maximum"
_T5 = "77 tokens of CLIP and the pipeline's 256 of T5"


def _one(kind: str, size: int, text_tokens: int, source: str, /, **config: Any) -> Architecture:
    return Architecture({"transformer": (f"diffusers.{kind}", config)}, size, text_tokens, source)


_KNOWN: dict[str, Architecture] = {
    "pixart-alpha-1024": _one(
        "PixArtTransformer2DModel", 128, 120, _MAXIMUM, **_PIXART, sample_size=128, use_additional_conditions=True
    ),
    "pixart-sigma-512": _one(
        "PixArtTransformer2DModel", 64, 120, "what DiffCR's Table 1 fits; the pipeline's maximum is 300",
        **_PIXART, sample_size=64, use_additional_conditions=False,
    ),
    "pixart-sigma-1024": _one(
        "PixArtTransformer2DModel", 128, 300, _MAXIMUM, **_PIXART, sample_size=128, use_additional_conditions=False
    ),
    "dit-xl-2-256": _one("DiTTransformer2DModel", 32, 0, "a class label instead", **_DIT, sample_size=32),
    "dit-xl-2-512": _one("DiTTransformer2DModel", 64, 0, "a class label instead", **_DIT, sample_size=64),
    "sd3-medium": _one(
        "SD3Transformer2DModel", 128, 333, _T5, **_SD3, num_layers=24, num_attention_heads=24,
        caption_projection_dim=1536,
    ),
    "sd3.5-large": _one(
        "SD3Transformer2DModel", 128, 333, _T5, **_SD3, num_layers=38, num_attention_heads=38,
        caption_projection_dim=2432, qk_norm="rms_norm",
    ),
    "flux-dev": _one(
        "FluxTransformer2DModel", 128, 512, _MAXIMUM, patch_size=1, in_channels=64, num_layers=19,
        num_single_layers=38, attention_head_dim=128, num_attention_heads=24, joint_attention_dim=4096,
        pooled_projection_dim=768, guidance_embeds=True, axes_dims_rope=(16, 56, 56),
    ),
    "sana-1600m": _one(
        "SanaTransformer2DModel", 32, 300, _MAXIMUM, in_channels=32, out_channels=32, num_attention_heads=70,
        attention_head_dim=32, num_layers=20, num_cross_attention_heads=20, cross_attention_head_dim=112,
        cross_attention_dim=2240, caption_channels=2304, mlp_ratio=2.5, sample_size=32, patch_size=1,
    ),
    "lazydiffusion-1024": Architecture(
        {
            "transformer": (
                "harness.models.lazy.LazyPixArt", {**_PIXART, "sample_size": 128, "context_channels": 1152}
            ),
            "encoder": (
                "harness.models.lazy.LazyEncoder",
                {"num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 5, "num_layers": 28,
                 "patch_size": 2, "sample_size": 128},
            ),
        },
        128, 120, "PixArt-alpha's maximum",
    ),
}  # fmt: skip


def names() -> list[str]:
    return sorted(_KNOWN)


def architecture(name: str) -> Architecture:
    """Raises UserError for an unknown name."""
    if name not in _KNOWN:
        raise unknown("architecture", name, _KNOWN)
    return _KNOWN[name]


def class_name(name: str, part: str = "transformer") -> str:
    """The class of a part. Raises UserError for an unknown name or part."""
    known = architecture(name).parts
    if part not in known:
        raise unknown(f"part of {name}", part, known)
    return known[part][0].rpartition(".")[2]


def build(
    name: str, part: str = "transformer", *, device: str = "meta", dtype: torch.dtype = torch.float32, **changes: Any
) -> Any:
    """A part of a model with random weights, created on the device in that precision. changes: of its configuration,
    for instance fewer layers. The global random state stays as it is. Raises UserError for an unknown name or part, and
    where the weights do not fit into the memory."""
    class_name(name, part)
    path, config = architecture(name).parts[part]
    config = config | changes
    module, _, kind = path.rpartition(".")
    cls = getattr(importlib.import_module(module), kind)
    where = torch.device(device)
    with _quiet(dtype):
        if where.type == "meta":
            with where:
                return cls(**config).eval()
        return _filled(cls, config, where, dtype, name)


@contextmanager
def _quiet(dtype: torch.dtype) -> Iterator[None]:
    """Tensors are made in this precision, and nothing drawn here is missing from the global random state."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_default_dtype(before)


def _filled(cls: Any, config: dict[str, Any], device: torch.device, dtype: torch.dtype, name: str) -> nn.Module:
    """Parameters skip their own initialisation, which takes minutes for the large models."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        model: nn.Module = cls(**config).eval()
    size = sum(p.numel() for p in model.parameters()) * dtype.itemsize
    if size > (room := _room(device)):
        raise UserError(
            f"random:{name} in {str(dtype).removeprefix('torch.')} takes {size / 2**30:.1f} GiB of weights, and "
            f"{room / 2**30:.1f} GiB are free on {device}; take a smaller --dtype, or --device meta, which counts alone"
        )
    generator = torch.Generator(device).manual_seed(_SEED)
    drawn = torch.randn(_DRAWN, generator=generator, device=device, dtype=torch.float32).to(dtype) * _SPREAD
    start = 0
    with torch.no_grad():
        for owner in model.modules():
            for key, old in list(owner.named_parameters(recurse=False)):
                weight = torch.empty(old.shape, device=device, dtype=dtype)
                if old.ndim > 1:
                    start = _draw(weight, drawn, start)
                else:
                    weight.fill_(0.0 if "bias" in key else 1.0)  # a factor of a norm
                owner.register_parameter(key, nn.Parameter(weight, requires_grad=False))
            for key, buffer in list(owner.named_buffers(recurse=False)):
                kind = dtype if buffer.is_floating_point() else buffer.dtype
                setattr(owner, key, buffer.to(device=device, dtype=kind))
    return model


def _draw(weight: Tensor, drawn: Tensor, start: int) -> int:
    """Fill from the drawn numbers, again and again; returns where the next weight goes on."""
    flat = weight.view(-1)
    done = 0
    while done < len(flat):
        some = min(len(drawn) - start, len(flat) - done)
        flat[done : done + some] = drawn[start : start + some]
        done, start = done + some, (start + some) % len(drawn)
    return start


def _room(device: torch.device) -> int:
    """Free bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return int(psutil.virtual_memory().available)
