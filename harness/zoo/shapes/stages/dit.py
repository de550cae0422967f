"""Stage 4: the DiT.

Two things make it learn in hours on two cores: it first trains on 2 x 2 pooled latents (64 tokens instead of
256), and beside the rectified-flow loss a linear head reads the scene's label map off the middle block (the idea of
representation alignment, REPA, Yu et al. 2024, with labels that the renderer knows instead of another network's
features). The head is thrown away afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import AdamW

from harness.training.loop import Losses, TrainingPlan, train
from harness.zoo.shapes import judge as judging
from harness.zoo.shapes import networks, scene
from harness.zoo.shapes.recipe import Recipe
from harness.zoo.shapes.stages.text import tokens
from harness.zoo.shapes.stages.vae import latents


class _Student(nn.Module):
    """The DiT, with the heads that read the label map off its middle block while it trains."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.dit = networks.transformer(recipe.width, recipe.layers, recipe.heads)
        classes = sum(n + 1 for n in scene.ATTRIBUTES.values()) + sum(judging.BACKGROUND_HEADS.values())
        self.label_head = nn.Linear(recipe.width, classes)
        self.middle = recipe.layers // 2

    def forward(self, x: Tensor, timestep: Tensor, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []
        block = self.dit.transformer_blocks[self.middle]
        handle = block.register_forward_hook(lambda _m, _i, out: seen.append(out))
        try:
            velocity = self.dit(
                x,
                encoder_hidden_states=states,
                encoder_attention_mask=mask,
                timestep=timestep,
                added_cond_kwargs={},
                return_dict=False,
            )[0]
        finally:
            handle.remove()
        return velocity, self.label_head(seen[0])


def label_loss(logits: Tensor, scenes: scene.Scenes, covered: Tensor) -> Tensor:
    """Cross entropy of the label map. logits (B, N, K); covered (B, H, W) bool, N = H W."""
    batch, height, width = covered.shape
    rows = (torch.arange(height) * 2 // height)[:, None] * 2 + (torch.arange(width) * 2 // width)[None]
    objects = scenes.objects[:, rows.flatten()].to(logits.device)  # (B, N, 4)
    inside = covered.flatten(1).to(logits.device)
    total, start = logits.new_zeros(()), 0
    for column, count in enumerate(scene.ATTRIBUTES.values()):
        target = torch.where(inside, objects[..., column], count)
        target = torch.where(target < 0, count, target)
        # Background tokens are many and easy: a fifth of an object token's weight.
        balance = torch.ones(count + 1, device=logits.device)
        balance[count] = 0.2
        total = total + F.cross_entropy(logits[..., start : start + count + 1].transpose(1, 2), target, balance)
        start += count + 1
    for column, count in enumerate(judging.BACKGROUND_HEADS.values()):
        target = scenes.background[:, column, None].expand(batch, height * width).to(logits.device)
        total = total + F.cross_entropy(logits[..., start : start + count].transpose(1, 2), target)
        start += count
    return total / 6


def train_dit(recipe: Recipe, vae: nn.Module, text: nn.Module, work: Path, accelerator: Accelerator) -> nn.Module:
    cache = latents(recipe, vae, work, accelerator)
    torch.manual_seed(0)
    student = _Student(recipe)
    text = text.to(accelerator.device)
    empty = tokens([""], accelerator.device)

    def loss_at(pool: int, batch: int, weight: float) -> Callable[[nn.Module, int, torch.Generator], Losses]:
        def loss(module: nn.Module, step: int, generator: torch.Generator) -> Losses:
            device = accelerator.device
            rows = torch.randint(recipe.scenes, (batch,), generator=generator, device=device).cpu()
            scenes = scene.sample("train", rows.tolist())
            clean = cache["latents"][rows].to(device).float()
            covered = cache["covered"][rows]
            if pool > 1:
                clean = F.avg_pool2d(clean, pool)
                covered = F.avg_pool2d(covered.float(), pool) >= 0.5
            ids, mask = tokens(scenes.captions(), device)
            dropped = torch.rand(batch, generator=generator, device=device) < 0.1  # for classifier-free guidance
            ids, mask = torch.where(dropped[:, None], empty[0], ids), torch.where(dropped[:, None], empty[1], mask)
            with torch.no_grad():
                states = text(ids, attention_mask=mask)[0]
            sigma = torch.randn(batch, generator=generator, device=device).sigmoid()
            noise = torch.randn(clean.shape, generator=generator, device=device)
            mixed = torch.lerp(clean, noise, sigma[:, None, None, None])
            velocity, labels = module(mixed, sigma * 1000, states, mask)
            flow = F.mse_loss(velocity, noise - clean)
            kept = (~dropped).nonzero().flatten().cpu()
            chosen = scene.Scenes(scenes.objects[kept], scenes.offsets[kept], scenes.background[kept])
            reading = label_loss(labels[kept.to(device)], chosen, covered[kept])
            return {"loss": flow + weight * reading, "flow": flow, "labels": reading}

        return loss

    def optimizer(rate: float) -> AdamW:
        return AdamW(student.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)

    small = TrainingPlan(steps=recipe.pooled_steps, average=0.995, seed=4, decay=0.1)
    train(
        "dit-pooled",
        student,
        loss_at(2, 2 * recipe.batch, 0.5),
        [optimizer(2e-3)],
        small,
        work,
        accelerator=accelerator,
    )
    full = TrainingPlan(steps=recipe.steps, average=0.998, seed=5, decay=0.4)
    train("dit", student, loss_at(1, recipe.batch, 0.25), [optimizer(1.5e-3)], full, work, accelerator=accelerator)
    return student.dit.eval().requires_grad_(False)
