"""Random numbers that belong to an image: the same case gets the same ones in any batch and on any device.

A generation does not tell its seed. Its first latents do, since they are the noise that the seed drew: a digest of
their signs seeds a private generator for every image, on the CPU. Both halves of classifier-free guidance hold the same
latents and therefore get the same numbers.

Letters: B batch (CFG halves included), N tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness import guidance
from harness.backbones.base import Backbone
from harness.spec import Call

_APART = 0x9E3779B97F4A7C15  # between the seeds of two steps


class ImageNoise:
    """Standard Gumbel noise for a call of a block, (B, N): other values for every image, step and layer. They are drawn
    and sent to the device before the first block of a step runs.

    The k highest of log p + noise are k tokens drawn without replacement in proportion to p (Kool et al., 2019); those
    of the noise alone are drawn at random.

    paired: whether the batch holds both CFG halves, the unconditional one first.
    """

    def __init__(self) -> None:
        self.paired = False
        self._seeds: list[int] = []  # (B,) of the images that are being made
        self._drawn = torch.empty(0)  # (B, layers, grid's tokens) of the step that runs

    @contextmanager
    def on(self, backbone: Backbone) -> Iterator[None]:
        """Draw before every step of this backbone."""

        def denoise(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            self._step(backbone, guidance.first((args, kwargs)))
            return forward(*args, **kwargs)

        with backbone.on_begin(self._seeds.clear), backbone.around(denoise):
            yield

    def __call__(self, call: Call) -> Tensor:
        return self._drawn[:, call.layer, : call.x.shape[1]]

    def _step(self, backbone: Backbone, latents: Tensor) -> None:
        if len(self._seeds) < len(latents):
            self._seeds[:] = [0] * len(latents) if latents.is_meta else seeds_of(latents)
        rows = self._seeds[len(self._seeds) - len(latents) :]  # where one CFG half runs alone, it is the later one
        half, odd = divmod(len(rows), 2)
        self.paired = backbone.guided is not False and not odd and rows[:half] == rows[half:]
        shape = backbone.layers, backbone.grid.tokens
        own = {seed: _gumbel((seed + _APART * (backbone.step.index + 1)) % 2**63, shape) for seed in set(rows)}
        self._drawn = torch.stack([own[seed] for seed in rows]).to(latents.device)


def seeds_of(latents: Tensor) -> list[int]:
    """A seed for each sample of latents (B, ...), a function of their signs alone."""
    signs = (latents > 0).flatten(1).cpu().numpy()
    return [int.from_bytes(hashlib.sha256(np.packbits(row).tobytes()).digest()[:8], "little") for row in signs]


def _gumbel(seed: int, shape: tuple[int, ...]) -> Tensor:
    exponential = torch.empty(shape).exponential_(generator=torch.Generator().manual_seed(seed))
    return -exponential.clamp(min=1e-30).log()
