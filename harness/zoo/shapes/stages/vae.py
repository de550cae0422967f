"""Stage 1: the VAE."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import AdamW

from harness import checkpoints
from harness.training.loop import Losses, TrainingPlan, train
from harness.zoo.shapes import networks, scene
from harness.zoo.shapes.recipe import Recipe, rows


def train_vae(recipe: Recipe, work: Path, accelerator: Accelerator) -> nn.Module:
    torch.manual_seed(0)
    vae = networks.vae()

    def loss(module: nn.Module, step: int, generator: torch.Generator) -> Losses:
        images, coverage = scene.render(scene.sample("train", rows(step, max(1, recipe.batch // 4))))
        x = (images.to(accelerator.device) * 2 - 1).to(memory_format=torch.channels_last)
        posterior = module.encode(x).latent_dist
        decoded = module.decode(posterior.sample(generator)).sample
        weight = 1 + 5 * coverage.to(x.device)[:, None]  # objects are small and matter most
        distance = (decoded - x).abs()
        # The squared term finds what the absolute one, content with a local median, blurs away: two-pixel dots.
        error = (weight * (distance + 4 * distance**2)).mean()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return {"loss": error + 2e-4 * kl, "l1": distance.mean(), "l2": (distance**2).mean(), "kl": kl}

    vae = vae.to(memory_format=torch.channels_last)
    plan = TrainingPlan(steps=recipe.vae_steps, average=0.995, seed=1)
    optimizer = AdamW(vae.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.0)
    vae = train("vae", vae, loss, [optimizer], plan, work, accelerator=accelerator)
    vae = vae.to(memory_format=torch.contiguous_format).eval().requires_grad_(False)
    with torch.no_grad():
        images, _ = scene.render(scene.sample("train", range(512)))
        latents = torch.cat([vae.encode(x.to(accelerator.device) * 2 - 1).latent_dist.mode() for x in images.split(64)])
        centre, spread = float(latents.mean()), float(latents.std())
    vae.register_to_config(scaling_factor=1 / spread, shift_factor=None)
    accelerator.print(f"vae: latent mean {centre:.3f}, std {spread:.3f}")
    return vae


def round_trip(vae: nn.Module, images: Tensor) -> Tensor:
    """Images (B, 3, S, S) in 0..1 through the VAE and back."""
    return (vae.decode(vae.encode(images * 2 - 1).latent_dist.mode()).sample / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def latents(recipe: Recipe, vae: nn.Module, work: Path, accelerator: Accelerator) -> dict[str, Tensor]:
    """Encoded training scenes, cached on disk: latents (M, C, 16, 16) float16 and where objects cover a token,
    (M, 16, 16) bool."""
    path = work / f"latents-{recipe.scenes}.safetensors"
    if path.exists():
        return checkpoints.load(path)[0]
    encoded, covered = [], []
    for start in range(0, recipe.scenes, 256):
        images, coverage = scene.render(scene.sample("train", range(start, min(start + 256, recipe.scenes))))
        mode = vae.encode(images.to(accelerator.device) * 2 - 1).latent_dist.mode()
        encoded.append((mode * vae.config.scaling_factor).half().cpu())
        covered.append(F.avg_pool2d(coverage, 4) > 0.4)
    tensors = {"latents": torch.cat(encoded), "covered": torch.cat(covered)}
    checkpoints.save(path, tensors, {"scenes": recipe.scenes})
    return tensors
