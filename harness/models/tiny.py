"""Every family of backbones in tiny: the true class with random weights, 2 to 4 layers of width 32, and a sampler.

For checks of a method's contract, in seconds on one core. Figures made on these models mean nothing.

Letters: B batch (CFG halves included where the family's batches hold both), N image tokens.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from harness import registry
from harness.backbones.base import Backbone
from harness.backbones.following import track_sampler
from harness.errors import unknown
from harness.models import random_init

STEPS = 6
_TEXT = 9  # text tokens
_GUIDANCE = 2.0
_SEED = 0

_BLOCKS: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 3, "out_channels": 4}
_PIXART = {**_BLOCKS, "cross_attention_dim": 32, "caption_channels": 24, "sample_size": 12}
_SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "dit": ("dit-xl-2-256", {**_BLOCKS, "sample_size": 12}),
    "flux": (
        "flux-dev",
        {
            "in_channels": 16, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 16,
            "num_attention_heads": 2, "joint_attention_dim": 24, "pooled_projection_dim": 20,
            "axes_dims_rope": (4, 6, 6),
        },
    ),
    "lazy-pixart": ("lazydiffusion-1024", {**_PIXART, "context_channels": 32}),
    "pixart": ("pixart-sigma-512", _PIXART),
    "sana": (
        "sana-1600m",
        {
            "in_channels": 4, "out_channels": 4, "num_attention_heads": 4, "attention_head_dim": 8, "num_layers": 3,
            "num_cross_attention_heads": 2, "cross_attention_head_dim": 16, "cross_attention_dim": 32,
            "caption_channels": 24, "sample_size": 6,
        },
    ),
    "sd3": (
        "sd3-medium",
        {
            "sample_size": 12, "in_channels": 4, "out_channels": 4, "attention_head_dim": 16, "num_layers": 3,
            "num_attention_heads": 2, "joint_attention_dim": 24, "pooled_projection_dim": 20,
            "caption_projection_dim": 32, "pos_embed_max_size": 16,
        },
    ),
}  # fmt: skip
_SIDES: dict[str, tuple[int | None, ...]] = {"dit": (None,), "lazy-pixart": (None,), "sana": (6, 7)}
_FLOW = ("flux", "sana", "sd3")  # trained by flow matching


@dataclass(frozen=True)
class Tiny:
    """A tiny denoiser. name: of its family."""

    name: str
    backbone: Backbone

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """Sides of the latents that it takes: a grid of 6 x 6 tokens, and an odd one. None: it has one
        size, which its config says."""
        return _SIDES.get(self.name, (12, 14))

    def generate(self, images: int = 1, seed: int = 0, size: int | None = None, steps: int = STEPS) -> Tensor:
        """Latents of so many images, made as a pipeline makes them: the family's scheduler and, where its batches hold
        both halves, classifier-free guidance. size: one of `sizes`, by default the first. The global random state
        stays as it is."""
        scheduler: Any = FlowMatchEulerDiscreteScheduler() if self.name in _FLOW else DPMSolverMultistepScheduler()
        backbone, guided = self.backbone, self.backbone.batched_cfg
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            given = backbone.inputs(images * (1 + guided), text_tokens=_TEXT, size=size or self.sizes[0])
        x = given.pop("hidden_states")[:images]
        timestep = given.pop("timestep")
        with torch.no_grad(), track_sampler(backbone, SimpleNamespace(scheduler=scheduler), guided=guided):
            scheduler.set_timesteps(steps)
            for t in scheduler.timesteps:
                rows = torch.cat([x, x]) if guided else x
                now = torch.full_like(timestep, float(t) / backbone.timestep_unit)
                out = backbone.transformer(hidden_states=rows, timestep=now, **given)[0]
                if guided:
                    without, with_text = out.chunk(2)
                    out = without + _GUIDANCE * (with_text - without)
                x = scheduler.step(out, t, x, return_dict=False)[0]
        return x


def names() -> list[str]:
    """Families that have a tiny model."""
    return sorted(_SIZES)


def build(family: str) -> Tiny:
    """The tiny model of a family, the same one every time; the global random state stays as it is. Raises UserError
    for a family without one."""
    if family not in _SIZES:
        raise unknown("family", family, _SIZES)
    architecture, sizes = _SIZES[family]
    path, config = random_init.architecture(architecture).parts["transformer"]
    module, _, kind = path.rpartition(".")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = getattr(importlib.import_module(module), kind)(**(config | sizes)).eval().requires_grad_(False)
        for name, weight in model.named_parameters():
            if name.endswith("scale_shift_table"):  # fresh gates are near zero, and blocks would hardly matter
                weight.normal_()
            elif weight.ndim > 1:
                weight.normal_(std=(weight.shape[0] / weight.numel()) ** 0.5)  # keeps the scale of what it is given
    return Tiny(family, registry.backbones.get(family)(model))
