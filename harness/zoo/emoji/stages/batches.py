"""Training images of `emoji`, drawn anew at every step.

Letters: M pictures, B batch, S = 64 pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.zoo.emoji.build import placed
from harness.zoo.emoji.pictures import BACKGROUNDS, Pictures, caption, colours, compose


class Images:
    """The training pictures on a device, (M, 4, S, S) uint8."""

    def __init__(self, pictures: Pictures, device: torch.device) -> None:
        rows = pictures.of("train")
        self.items = [pictures.items[row] for row in rows]
        self.rgba = pictures.rgba(rows).to(device)
        self.names = list(BACKGROUNDS)
        self.colours = colours(self.names).to(device)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, list[str]]:
        """Images (B, 3, S, S) in -1..1 and their captions: pictures, backgrounds, scales and shifts at random."""
        device = generator.device
        pick = torch.randint(len(self.items), (count,), generator=generator, device=device)
        ground = torch.randint(len(self.names), (count,), generator=generator, device=device)
        images, _ = compose(self.rgba[pick], self.colours[ground], *placed(count, generator))
        chosen = zip(pick.tolist(), ground.tolist(), strict=True)
        return images * 2 - 1, [
            caption(self.items[one].style, self.items[one].name, self.names[on]) for one, on in chosen
        ]
