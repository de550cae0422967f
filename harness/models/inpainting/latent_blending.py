"""Inpainting with a pipeline that only knows text-to-image: the known part of the latents, at the noise of each step,
takes the place of what was generated there (blended latent diffusion, Avrahami et al., 2023).

Letters: B images, C latent channels, S pixels per side, h x w latents.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.models.inpainting.regions import GREY


def fill(pipeline: Any, known: Tensor, mask: Tensor, noise: Tensor, **call: Any) -> Tensor:
    """Images (B, 3, S, S) in 0..1 with generated pixels under the mask (B, S, S) bool. noise: (B, C, h, w). call:
    further arguments of the pipeline."""
    vae, device = pipeline.vae, pipeline.device
    dtype = next(vae.parameters()).dtype
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    pixels = torch.where(mask[:, None], GREY, known).to(device, dtype) * 2 - 1
    clean = (vae.encode(pixels).latent_dist.mode() - shift) * vae.config.scaling_factor  # (B, C, h, w)
    hidden = F.adaptive_max_pool2d(mask[:, None].float(), clean.shape[-2:]).to(device, dtype)
    noise = noise.to(device, dtype)

    def blend(step: int, _timestep: Any, latents: Tensor) -> None:
        timesteps = pipeline.scheduler.timesteps
        at, behind = clean, (step + 1) * getattr(pipeline.scheduler, "order", 1)  # Heun's has two for each step
        if behind < len(timesteps):
            at = pipeline.scheduler.add_noise(clean, noise, timesteps[behind].expand(len(clean)))
        latents.copy_(hidden * latents + (1 - hidden) * at)

    height, width = known.shape[-2:]
    out = pipeline(latents=noise, output_type="pt", callback=blend, **{**call, "height": height, "width": width})
    return torch.where(mask[:, None], out.images.to(known), known)
