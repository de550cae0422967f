"""Random numbers that belong to an image: the same case gets the same ones whatever batch it is in.

A generation does not tell its seed. Its first latents do, since they are the noise that the seed drew: their bits,
added up, seed a private generator for every image, on the CPU, so that all devices see the same numbers. Both halves of
classifier-free guidance hold the same latents and therefore get the same numbers.

Letters: B batch (CFG halves included), N tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from harness import guidance
from harness.backbones.base import Backbone
from harness.spec import Call

_APART = 1_000_003  # between the seeds of two steps


class Draws:
    """Uniform random numbers in [0, 1) for a call of a block, (B, N): others for every image, step and layer.

    paired: whether the batch holds both CFG halves, the unconditional one first.
    """

    def __init__(self) -> None:
        self.paired = False
        self._seeds: list[int] = []  # (B,) of the images that are being made
        self._drawn = torch.empty(0)  # (B, layers, grid's tokens) of the step that runs

    def __call__(self, call: Call) -> Tensor:
        return self._drawn[:, call.layer, : call.x.shape[1]]

    def begin(self) -> None:
        """A new image starts."""
        self._seeds = []

    def step(self, latents: Tensor, guided: bool | None, index: int, layers: int, tokens: int) -> None:
        """Draw what a step needs, and send it to the device of latents (B, ...)."""
        if len(self._seeds) < len(latents):
            self._seeds = seeds_of(latents)
        rows = self._seeds[len(self._seeds) - len(latents) :]  # where one CFG half runs alone, it is the later one
        half, odd = divmod(len(rows), 2)
        self.paired = guided is not False and not odd and rows[:half] == rows[half:]
        own = {seed: _uniform(seed + _APART * index, layers, tokens) for seed in set(rows)}
        self._drawn = torch.stack([own[seed] for seed in rows]).to(latents.device)


@contextmanager
def image_draws(backbone: Backbone) -> Iterator[Draws]:
    """Draws for the images that this backbone makes. Those of a step are there before its first block runs."""
    draws = Draws()

    def denoise(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        latents = guidance.first((args, kwargs))
        draws.step(latents, backbone.guided, backbone.step.index, backbone.layers, backbone.grid.tokens)
        return forward(*args, **kwargs)

    with backbone.on_begin(draws.begin), backbone.around(denoise):
        yield draws


def seeds_of(latents: Tensor) -> list[int]:
    """A seed for each sample of latents (B, ...), a function of its bits alone."""
    if latents.is_meta:
        return [0] * len(latents)
    bits = latents.detach().float().flatten(1).contiguous().view(torch.int32)
    return [seed % 2**62 for seed in bits.sum(1, dtype=torch.int64).tolist()]


def _uniform(seed: int, layers: int, tokens: int) -> Tensor:
    return torch.rand(layers, tokens, generator=torch.Generator().manual_seed(seed))
