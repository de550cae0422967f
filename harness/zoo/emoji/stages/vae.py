"""Stage 1: the VAE."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import AdamW

from harness.training.loop import Losses, TrainingPlan, generator, train
from harness.zoo.emoji import networks
from harness.zoo.emoji.recipe import Recipe
from harness.zoo.emoji.stages.batches import Images


def train_vae(recipe: Recipe, images: Images, work: Path, accelerator: Accelerator) -> nn.Module:
    """Absolute and squared error and a small KL term; the latents are then scaled to a spread of 1."""
    torch.manual_seed(0)
    vae = networks.vae(recipe.vae_width)

    def loss(module: nn.Module, step: int, generator: torch.Generator) -> Losses:
        x, _ = images.draw(recipe.vae_batch, generator)
        with accelerator.autocast():
            posterior = module.encode(x).latent_dist
            decoded = module.decode(posterior.sample(generator)).sample.float()
        distance = (decoded - x).abs()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        error = distance.mean() + 4 * distance.square().mean()
        return {"loss": error + 2e-4 * kl, "l1": distance.mean(), "l2": distance.square().mean(), "kl": kl}

    plan = TrainingPlan(steps=recipe.vae_steps, average=0.995, seed=1, save_seconds=recipe.save_seconds)
    optimizer = AdamW(vae.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.0)
    train("vae", vae, loss, [optimizer], plan, work, accelerator=accelerator)
    vae = vae.eval().requires_grad_(False)
    with torch.no_grad():
        drawn, _ = images.draw(256, generator(1, recipe.vae_steps, accelerator.device))
        latents = torch.cat([vae.encode(x).latent_dist.mode() for x in drawn.split(64)])
    vae.register_to_config(scaling_factor=1 / float(latents.std()), shift_factor=None)
    return vae
