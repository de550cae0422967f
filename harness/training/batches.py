"""Batches that the denoiser trains on: latents and prompt states, encoded once, and drawn with some captions dropped.

Letters: M samples, B batch, C latent channels, h x w latents, H x W pixels, K tokens, L text tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from harness.models import prompting

_DROPPED = 0.1  # share of the captions that a batch drops, for classifier-free guidance


@dataclass(frozen=True)
class Batch:
    """clean: what the model learns to denoise, latents (B, C, h, w) or tokens (B, K, C). inputs: the transformer's
    other arguments, by name."""

    clean: Tensor
    inputs: dict[str, Any]


class Data(Protocol):
    """Draws batches; everything random comes from the generator, whose device is the batch's. digest: of what they are
    drawn from, beside the model and the options of the fit."""

    @property
    def digest(self) -> str: ...

    def batch(self, size: int, generator: torch.Generator) -> Batch: ...


@torch.no_grad()
def encode(model: Any, images: Tensor, captions: list[str]) -> dict[str, Tensor]:
    """Images (B, 3, H, W) in 0..1 and captions as latents, prompt states and masks."""
    vae = model.pipeline.vae
    pixels = images.to(model.device, next(vae.parameters()).dtype) * 2 - 1
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    found = vae.encode(pixels)
    # deep compression autoencoders have no distribution
    latents = found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latent
    return {"latents": (latents - shift) * vae.config.scaling_factor, **texts(model, captions)}


@torch.no_grad()
def texts(model: Any, captions: list[str]) -> dict[str, Tensor]:
    """What captions are to the denoiser, by its arguments' names: states (M, L, D), masks (M, L), pooled (M, D)."""
    states = model.encode(captions)
    return {name: states[state] for name, state in prompting.prompt_spec(model.pipeline).denoiser_kwargs.items()}


@torch.no_grad()
def no_text(model: Any) -> dict[str, Tensor]:
    """The same for a dropped caption: the empty negative prompt of guidance, which some pipelines encode otherwise than
    an empty prompt (Sana leaves its instruction out)."""
    states = prompting.encode(model.pipeline, [""], model.call, guided=True)
    spec = prompting.prompt_spec(model.pipeline)
    return {name: states.get(f"negative_{state}", states[state]) for name, state in spec.denoiser_kwargs.items()}


def prompts(rows: Mapping[str, Tensor], empty: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """The text arguments of a batch from encoded rows, some of their captions dropped. empty: those of "", which also
    says which of the rows are text."""
    device = generator.device
    count = len(rows[next(iter(empty))])
    dropped = torch.rand(count, generator=generator, device=device) < _DROPPED
    return {
        name: torch.where(dropped.view(-1, *[1] * (none.ndim - 1)), none.to(device), rows[name].to(device))
        for name, none in empty.items()
    }


def drawn(model: Any, rows: Mapping[str, Tensor], empty: Mapping[str, Tensor], generator: torch.Generator) -> Batch:
    """A batch of whole images from encoded rows."""
    sizes = {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}
    fixed = sizes if prompting.prompt_spec(model.pipeline).sizes else {}
    return Batch(rows["latents"].to(generator.device), {**prompts(rows, empty, generator), **fixed})
