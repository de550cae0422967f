"""Stage 2: the text encoder and the DiT, together, by rectified flow on latents that the frozen VAE gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import AdamW

from harness.training.loop import Losses, TrainingPlan, train
from harness.zoo.emoji.recipe import Recipe
from harness.zoo.emoji.stages.batches import Images

_DROPPED = 0.1  # share of captions that are left empty, for classifier-free guidance


class Student(nn.Module):
    """Both networks in one module, for the training loop."""

    def __init__(self, text: nn.Module, dit: nn.Module) -> None:
        super().__init__()
        self.text, self.dit = text, dit

    def forward(self, x: Tensor, timestep: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """The velocity (B, C, h, w) for noised latents x at timesteps (B,), under token ids and masks (B, L)."""
        states = self.text(ids, attention_mask=mask)[0]
        velocity: Tensor = self.dit(
            x, encoder_hidden_states=states, encoder_attention_mask=mask, timestep=timestep, added_cond_kwargs={},
            return_dict=False,
        )[0]  # fmt: skip
        return velocity


def train_dit(
    name: str, recipe: Recipe, student: Student, vae: nn.Module, tokenizer: Any, images: Images, work: Path,
    accelerator: Accelerator,
) -> Student:  # fmt: skip
    """name: of the stage's checkpoints."""
    device = accelerator.device
    vae = vae.to(device)
    if device.type == "cuda":  # in place: names of weights stay
        for block in student.dit.transformer_blocks:
            block.compile()

    def loss(module: nn.Module, step: int, generator: torch.Generator) -> Losses:
        x, captions = images.draw(recipe.batch, generator)
        dropped = (torch.rand(recipe.batch, generator=generator, device=device) < _DROPPED).tolist()
        tokens = tokenizer(
            ["" if drop else caption for drop, caption in zip(dropped, captions, strict=True)],
            padding="max_length", truncation=True, return_tensors="pt",
        ).to(device)  # fmt: skip
        with torch.no_grad(), accelerator.autocast():
            clean = (vae.encode(x).latent_dist.mode() * vae.config.scaling_factor).float()
        sigma = torch.randn(recipe.batch, generator=generator, device=device).sigmoid()
        noise = torch.randn(clean.shape, generator=generator, device=device)
        mixed = torch.lerp(clean, noise, sigma[:, None, None, None])
        with accelerator.autocast():
            velocity = module(mixed, sigma * 1000, tokens.input_ids, tokens.attention_mask).float()
        return {"loss": F.mse_loss(velocity, noise - clean)}

    plan = TrainingPlan(steps=recipe.steps, average=0.9985, seed=2, warmup=100, save_seconds=recipe.save_seconds)
    optimizer = AdamW(student.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.01)
    train(name, student, loss, [optimizer], plan, work, accelerator=accelerator)
    return student.eval().requires_grad_(False)
