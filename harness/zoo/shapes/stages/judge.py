"""Stage 3: the judge."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import AdamW

from harness.training.loop import Losses, TrainingPlan, train
from harness.zoo.shapes import judge as judging
from harness.zoo.shapes import scene
from harness.zoo.shapes.recipe import Recipe, rows
from harness.zoo.shapes.stages.vae import round_trip


def train_judge(recipe: Recipe, vae: nn.Module, work: Path, accelerator: Accelerator) -> nn.Module:
    """Train on renders, half of them through the VAE, with noise, blur, brightness and shifts of up to two pixels."""
    torch.manual_seed(0)
    judge = judging.Judge()

    def loss(module: nn.Module, step: int, generator: torch.Generator) -> Losses:
        scenes = scene.sample("train", rows(step, 2 * recipe.batch))
        images = scene.render(scenes)[0].to(accelerator.device)
        half = len(images) // 2
        with torch.no_grad():
            images[:half] = round_trip(vae, images[:half])
            images = augment(images, generator)
        return {"loss": judging.loss(module(images)[0], scenes)}

    plan = TrainingPlan(steps=recipe.judge_steps, average=0.99, seed=3)
    optimizer = AdamW(judge.parameters(), lr=2e-3, weight_decay=0.02)
    judge = train("judge", judge, loss, [optimizer], plan, work, accelerator=accelerator).eval().requires_grad_(False)
    judge.standardise(scene.render(scene.sample("train", range(2048)))[0].to(accelerator.device))
    return judge


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    batch, device = len(images), images.device

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(batch, 1, 1, 1, generator=generator, device=device)

    dx, dy = torch.randint(-2, 3, (2,), generator=generator, device=device).tolist()
    images = F.pad(images, (2, 2, 2, 2), mode="replicate")[..., 2 + dy : 66 + dy, 2 + dx : 66 + dx]
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    images = torch.lerp(images, blurred, uniform(-0.3, 1.0).clamp(min=0))
    images = images * uniform(0.9, 1.1) + uniform(-0.05, 0.05)
    noise = torch.randn(images.shape, generator=generator, device=device)
    return (images + noise * uniform(0.0, 0.06)).clamp(0, 1)
