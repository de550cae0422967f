"""Inpainting with diffusers' own pipelines, for the families that have one: Stable Diffusion 3 and Flux.

They serve the text-to-image pipeline's own networks and scheduler, so there is no second copy of weights, and whoever
watches the denoiser or the sampler's steps sees them work. Each step, the known part of the latents, at that step's
noise, takes the place of what was generated there; every step runs on all tokens.

Letters: B images, C latent channels, S pixels per side, h x w latents.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.errors import UserError
from harness.models.inpainting.regions import GREY

_KINDS = {"StableDiffusion3Pipeline": "StableDiffusion3InpaintPipeline", "FluxPipeline": "FluxInpaintPipeline"}
KINDS = tuple(_KINDS)
"""Text-to-image pipelines, by name, that have a pipeline beside them that inpaints."""
_CHANNELS = 16  # of latents; the pipelines recognise encoded images by it


def check(pipeline: Any) -> None:
    """Raises UserError where diffusers' inpainting pipeline cannot work with this pipeline's networks."""
    channels = pipeline.vae.config.latent_channels
    if channels != _CHANNELS:
        raise UserError(
            f"{_KINDS[type(pipeline).__name__]} works on latents of {_CHANNELS} channels, and this model's VAE has "
            f"{channels}: it cannot inpaint"
        )


def inpainting(pipeline: Any) -> Any:
    """The pipeline that inpaints with a text-to-image pipeline's present parts.

    Made directly: `from_pipe` would convert the shared networks to single precision. It is cheap, and a pipeline that
    was kept would not see a denoiser that was exchanged since.
    """
    import diffusers  # slow, and a finished sweep does not need it

    check(pipeline)
    pipe = getattr(diffusers, _KINDS[type(pipeline).__name__])(**pipeline.components)
    pipe.set_progress_bar_config(**getattr(pipeline, "_progress_bar_config", {}))
    return pipe


def fill(pipeline: Any, known: Tensor, mask: Tensor, noise: Tensor, **call: Any) -> Tensor:
    """Images (B, 3, S, S) in 0..1 with generated pixels under the mask (B, S, S) bool, the others being the input's.

    noise: (B, C, h, w), what the sampler starts from and what known latents are noised with. call: further arguments of
    the inpainting pipeline. Raises UserError as `check` does, and for an argument that this pipeline does not take.
    """
    inpaint, vae = inpainting(pipeline), pipeline.vae
    if alien := sorted(call.keys() - inspect.signature(type(inpaint).__call__).parameters.keys()):
        raise UserError(
            f"{type(inpaint).__name__} takes no {', '.join(alien)}, which the model's call has for text-to-image: "
            "inpaint with a copy of the model whose harness.json leaves it out"
        )
    # Not the denoiser's precision, which a method may have lowered.
    kind, scale = {"device": pipeline.device, "dtype": call["prompt_embeds"].dtype}, known.shape[-1] // noise.shape[-1]
    shift = vae.config.shift_factor or 0.0
    pixels = torch.where(mask[:, None], GREY, known).to(pipeline.device, vae.dtype) * 2 - 1
    clean = ((vae.encode(pixels).latent_dist.mode() - shift) * vae.config.scaling_factor).to(**kind)  # (B, C, h, w)
    # The pipeline reads its mask at one pixel of each latent: one that has any masked pixel is masked throughout.
    hidden = F.interpolate(F.max_pool2d(mask[:, None].float(), scale), scale_factor=float(scale))  # (B, 1, S, S)
    height, width = known.shape[-2:]
    painted = inpaint(
        image=clean, masked_image_latents=clean, mask_image=hidden, latents=noise.to(**kind), strength=1.0,
        output_type="latent", **{**call, "height": height, "width": width},
    ).images  # fmt: skip
    latents = _unpacked(painted, clean) / vae.config.scaling_factor + shift  # decoded here: SD3's leaves the shift out
    pixels = (vae.decode(latents.to(vae.dtype)).sample.float() / 2 + 0.5).clamp(0, 1)
    return torch.where(mask[:, None], pixels.to(known), known)


def _unpacked(latents: Tensor, like: Tensor) -> Tensor:
    """Latents (B, C, h, w), which some pipelines give as they are and Flux as tokens (B, h w / 4, 4 C)."""
    if latents.ndim == 4:
        return latents
    count, channels, height, width = like.shape
    return F.pixel_shuffle(latents.mT.reshape(count, 4 * channels, height // 2, width // 2), 2)
