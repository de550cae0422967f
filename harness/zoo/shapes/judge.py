"""The judge: a small CNN that reads a scene's attributes off an image.

It gives caption alignment (are the named objects there, with the named attributes?) and, through its pooled
features, the extractor of `fid[shapes-judge]` and `kid[shapes-judge]`.

Letters: B images, S = 64 pixels, Q = 4 quadrants, C channels, K classes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import checkpoints
from harness.errors import UserError
from harness.zoo.shapes import scene

OBJECT_HEADS = {"presence": 2, **scene.ATTRIBUTES}
BACKGROUND_HEADS = {
    "background": len(scene.BACKGROUNDS),
    "background_texture": len(scene.BACKGROUND_TEXTURES),
}
FEATURES = 64


class Judge(nn.Module):
    """Convolutions down to 8 x 8, then one reading per quadrant and one for the background."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()

        def stage(inside: int, outside: int, stride: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.GroupNorm(8, outside), nn.SiLU()
            )

        self.trunk = nn.Sequential(
            stage(3, width, 2),
            stage(width, width, 1),
            stage(width, 2 * width, 2),
            stage(2 * width, 2 * width, 1),
            stage(2 * width, 4 * width, 2),
            stage(4 * width, 4 * width, 1),
        )
        self.quadrant = nn.Sequential(nn.Linear(4 * width * 16, 128), nn.SiLU())  # 4 x 4 cells per quadrant
        self.whole = nn.Sequential(nn.Linear(4 * width, FEATURES), nn.SiLU())
        self.object_heads = nn.ModuleDict({k: nn.Linear(128, n) for k, n in OBJECT_HEADS.items()})
        self.background_heads = nn.ModuleDict({k: nn.Linear(FEATURES, n) for k, n in BACKGROUND_HEADS.items()})
        self.mix = nn.Linear(4 * 128 + FEATURES, FEATURES)
        self.count = nn.Linear(FEATURES, len(scene.SHAPES) + len(scene.COLOURS))
        # Mean and spread of the features on training renders: distances weigh every feature alike.
        self.register_buffer("centre", torch.zeros(FEATURES))
        self.register_buffer("spread", torch.ones(FEATURES))

    def forward(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Images (B, 3, S, S) in 0..1. Returns logits by attribute: (B, Q, K) for objects, (B, K) for the
        background; and standardised features (B, 64)."""
        cells = self.trunk(images * 2 - 1)  # (B, C, 8, 8)
        batch, channels = cells.shape[:2]
        tiles = cells.view(batch, channels, 2, 4, 2, 4).permute(0, 2, 4, 1, 3, 5).reshape(batch, 4, -1)
        objects = self.quadrant(tiles)  # (B, Q, 128)
        whole = self.whole(cells.mean((2, 3)))  # (B, 64)
        logits = {k: head(objects) for k, head in self.object_heads.items()}
        logits |= {k: head(whole) for k, head in self.background_heads.items()}
        features = self.mix(torch.cat([objects.flatten(1), whole], 1))
        logits["content"] = self.count(F.silu(features))
        return logits, (features - self.centre) / self.spread

    @torch.no_grad()
    def standardise(self, images: Tensor) -> None:
        """Set centre and spread from these images (B, 3, S, S), so that their features have mean 0 and spread 1."""
        self.centre.zero_()
        self.spread.fill_(1)
        features = torch.cat([self(part)[1] for part in images.split(128)])
        self.centre.copy_(features.mean(0))
        self.spread.copy_(features.std(0))


def content(scenes: scene.Scenes) -> Tensor:
    """How often each shape and each colour occurs, (B, 6 + 8): what the mixed features have to tell."""
    shapes = F.one_hot(scenes.objects[..., 0] + 1, len(scene.SHAPES) + 1)[..., 1:].sum(1)
    colours = F.one_hot(scenes.objects[..., 1] + 1, len(scene.COLOURS) + 1)[..., 1:].sum(1)
    return torch.cat([shapes, colours], 1).float()


def loss(logits: dict[str, Tensor], scenes: scene.Scenes) -> Tensor:
    """Cross entropy over all attributes; those of an absent object do not count."""
    device = logits["presence"].device
    present = scenes.present.to(device)
    total = F.cross_entropy(logits["presence"].flatten(0, 1), present.long().flatten())
    for column, name in enumerate(scene.ATTRIBUTES):
        target = scenes.objects[..., column].to(device)
        total = total + F.cross_entropy(logits[name].flatten(0, 1), target.flatten(), ignore_index=-1)
    for column, name in enumerate(BACKGROUND_HEADS):
        total = total + F.cross_entropy(logits[name], scenes.background[:, column].to(device))
    if "content" in logits:
        total = total + 0.5 * F.mse_loss(logits["content"], content(scenes).to(device))
    return total


def agreement(logits: dict[str, Tensor], scenes: scene.Scenes) -> dict[str, tuple[Tensor, Tensor]]:
    """Per image and attribute: (right answers (B,), questions asked (B,)). Presence asks about every quadrant, the
    other object attributes about the quadrants that the caption names."""
    present = scenes.present.to(logits["presence"].device)
    out = {"presence": ((logits["presence"].argmax(-1) == present.long()).sum(1), torch.full((len(scenes),), 4))}
    for column, name in enumerate(scene.ATTRIBUTES):
        right = (logits[name].argmax(-1) == scenes.objects[..., column].to(present.device)) & present
        out[name] = (right.sum(1), present.sum(1))
    for column, name in enumerate(BACKGROUND_HEADS):
        right = logits[name].argmax(-1) == scenes.background[:, column].to(present.device)
        out[name] = (right.long(), torch.ones(len(scenes), dtype=torch.long))
    return {name: (right.cpu(), asked.cpu()) for name, (right, asked) in out.items()}


def log_likelihood(logits: dict[str, Tensor], scenes: scene.Scenes) -> Tensor:
    """Log-probability (B,) in nats that the judge gives to all right answers to the questions of `agreement` together,
    taken as independent."""
    present = scenes.present.to(logits["presence"].device)
    total = _of_right(logits["presence"], present.long()).sum(1)  # (B,)
    for column, name in enumerate(scene.ATTRIBUTES):
        right = scenes.objects[..., column].to(present.device).clamp(min=0)  # (B, 4)
        total = total + (_of_right(logits[name], right) * present).sum(1)
    for column, name in enumerate(BACKGROUND_HEADS):
        total = total + _of_right(logits[name], scenes.background[:, column].to(present.device))
    return total.cpu()


def _of_right(logits: Tensor, right: Tensor) -> Tensor:
    """Log-probabilities (...) of the classes `right` (...) under logits (..., K)."""
    return logits.log_softmax(-1).gather(-1, right[..., None])[..., 0]


WEIGHTS = Path(__file__).resolve().parent / "weights" / "judge.safetensors"


def load(path: Path = WEIGHTS) -> Judge:
    """The trained judge. Raises UserError where its weights are missing or damaged."""
    judge = Judge()
    try:
        judge.load_state_dict(checkpoints.load(path)[0])
    except (FileNotFoundError, checkpoints.CheckpointError, RuntimeError) as error:
        raise UserError(f"the judge of `shapes` cannot be loaded: {error}") from error
    return judge.eval().requires_grad_(False)


def digest(path: Path = WEIGHTS) -> str:
    """sha256 of its weights."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
