"""Stage 2: the text encoder, which is frozen from then on."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import AdamW

from harness.training.loop import Losses, TrainingPlan, train
from harness.zoo.shapes import judge as judging
from harness.zoo.shapes import networks, scene
from harness.zoo.shapes.recipe import Recipe, rows


class _TextReader(nn.Module):
    """The text encoder with one learned query per quadrant and one for the background."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = networks.text_encoder()
        self.queries = nn.Parameter(torch.randn(5, networks.TEXT_WIDTH) * 0.1)
        self.object_heads = nn.ModuleDict(
            {k: nn.Linear(networks.TEXT_WIDTH, n) for k, n in judging.OBJECT_HEADS.items()}
        )
        self.background_heads = nn.ModuleDict(
            {k: nn.Linear(networks.TEXT_WIDTH, n) for k, n in judging.BACKGROUND_HEADS.items()}
        )

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        states = self.encoder(ids, attention_mask=mask)[0]  # (B, L, D)
        attention = (self.queries @ states.transpose(1, 2)).masked_fill(mask[:, None] == 0, -1e9).softmax(-1)
        read = attention @ states  # (B, 5, D)
        logits = {k: head(read[:, :4]) for k, head in self.object_heads.items()}
        logits |= {k: head(read[:, 4]) for k, head in self.background_heads.items()}
        return logits


def tokens(captions: list[str], device: torch.device) -> tuple[Tensor, Tensor]:
    batch = networks.tokenizer()(
        captions, padding="max_length", max_length=networks.TEXT_TOKENS, truncation=True, return_tensors="pt"
    )
    return batch.input_ids.to(device), batch.attention_mask.to(device)


def train_text(recipe: Recipe, work: Path, accelerator: Accelerator) -> nn.Module:
    """Teach the text encoder which attributes belong to which quadrant, before any image is drawn."""
    torch.manual_seed(0)
    reader = _TextReader()

    def loss(module: nn.Module, step: int, generator: torch.Generator) -> Losses:
        scenes = scene.sample("train", rows(step, 4 * recipe.batch))
        logits = module(*tokens(scenes.captions(), accelerator.device))
        return {"loss": judging.loss(logits, scenes)}

    plan = TrainingPlan(steps=recipe.text_steps, average=0.99, seed=2)
    optimizer = AdamW(reader.parameters(), lr=2e-3, weight_decay=0.01)
    reader = train("text", reader, loss, [optimizer], plan, work, accelerator=accelerator)
    return reader.encoder.eval().requires_grad_(False)
