"""Gumbel noise on the logits of token routing: which tokens go through a block is drawn anew at every sampling step.

The k highest of (logit + temperature * Gumbel) are a sample without replacement in which the next token is always
drawn with probability proportional to exp(logit / temperature) among those left (Gumbel top-k; Kool et al., 2019,
Stochastic Beams and Where to Find Them). At temperature 0 the router decides alone; at a temperature far above the
spread of the logits the tokens are random.

Letters: B batch, N tokens.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from harness.backbones.base import Backbone
from harness.spec import Call

Source = Callable[[Call], Tensor]
"""What is added to the logits (B, N) of a block's router."""

_GOLDEN = 0x9E3779B97F4A7C15  # Weyl sequence of the seeds of one image's steps


def gumbel(*shape: int, generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise, float32, on the generator's device."""
    uniform = torch.empty(shape, device=generator.device).exponential_(generator=generator)
    return uniform.clamp_(min=1e-30).log_().neg_()


def seeds_of(latents: Tensor) -> list[int]:
    """One seed per row of latents (B, ...): a digest of their signs, which are the same on every device, in every
    precision and in every batch; both halves of classifier-free guidance share them."""
    signs = (latents > 0).flatten(1).cpu().numpy()
    return [int.from_bytes(hashlib.sha256(np.packbits(row).tobytes()).digest()[:8], "little") for row in signs]


_Wanted = tuple[tuple[int, int, int], int, tuple[int, ...]]
"""Layers, images and tokens, the step, and the seeds of the images: what noise is drawn from."""


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "noise")


class SeededNoise:
    """Noise at inference, seeded by each image's own initial latents, the step and the layer: a case gets the same
    noise in any batch and on any device.

    It is drawn for all layers before the first block of a step runs, into a tensor that keeps its place, so that a
    block does no more than add its part: blocks can be compiled, or captured in a CUDA graph that is replayed after
    the tensor was filled anew. While a GPU works at a step, a thread draws for the next one (17 ms for 32 images of
    1,024 tokens in 28 layers).

    paired: whether the batch that runs holds both CFG halves, the unconditional one first.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = temperature
        self.paired = False
        self._seeds: list[int] = []
        self._step = -1
        self._values: Tensor | None = None  # (layers, B, N)
        self._ahead: tuple[_Wanted, Future[Tensor]] | None = None

    @contextmanager
    def on(self, backbone: Backbone) -> Iterator[None]:
        """Draw before every step of this backbone."""

        @torch.compiler.disable
        def enter(latents: Tensor) -> None:
            if len(latents) > len(self._seeds):
                self._forget()
                self._seeds = [0] * len(latents) if latents.is_meta else seeds_of(latents)
            rows = self._seeds[len(self._seeds) - len(latents) :]
            half, odd = divmod(len(rows), 2)
            self.paired = backbone.guided is not False and not odd and rows[:half] == rows[half:]
            shape = (backbone.layers, len(self._seeds), backbone.grid.tokens)
            kept, form = self._values, (shape, latents.device, torch.is_inference_mode_enabled())
            if kept is not None and (kept.shape, kept.device, kept.is_inference()) != form:
                kept = None  # outside inference mode, its tensors may not be written to
            if kept is not None and self._step == backbone.step.index:
                return
            self._step = backbone.step.index
            wanted = (shape, self._step, tuple(self._seeds))
            more = self._step + 1 < backbone.step.count
            drawn = self._found(wanted, more, latents.device) if latents.is_cuda else self._drawn(wanted)
            if kept is not None:
                kept.copy_(drawn, non_blocking=True)
            else:
                self._values = drawn.to(latents.device, non_blocking=True)

        with backbone.on_begin(self._forget), backbone.on_call(enter):
            try:
                yield
            finally:
                self._ahead = None

    def __call__(self, call: Call) -> Tensor:
        """(B, N) float32. A batch without its unconditional half holds the last rows."""
        assert self._values is not None
        return self._values[call.layer, -len(call.x) :, : call.x.shape[1]]

    def _forget(self) -> None:
        self._seeds, self._step = [], -1

    def _found(self, wanted: _Wanted, more: bool, device: torch.device) -> Tensor:
        """Drawn while the step before ran, in memory from which a copy does not wait for the device. more: there is a
        step to come, for which to draw now."""
        if self._ahead is not None and self._ahead[0] == wanted:
            drawn = self._ahead[1].result()
        else:
            drawn = self._drawn(wanted).pin_memory()
        shape, step, seeds = wanted
        following = (shape, step + 1, seeds)

        def ahead() -> Tensor:
            torch.cuda.set_device(device)  # each thread has its own, and pinning touches it
            return self._drawn(following).pin_memory()

        self._ahead = (following, _threads().submit(ahead)) if more else None
        return drawn

    def _drawn(self, wanted: _Wanted) -> Tensor:
        (layers, _, tokens), step, seeds = wanted
        made: dict[int, Tensor] = {}
        for seed in seeds:
            if seed not in made:
                generator = torch.Generator().manual_seed((seed + (step + 1) * _GOLDEN) % 2**63)
                made[seed] = gumbel(layers, tokens, generator=generator) * self.temperature
        return torch.stack([made[seed] for seed in seeds], 1)


class FreshNoise:
    """Noise in training: new in every step, from the step's own generator. Both runs of a block in one step (two bins)
    see the same."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature
        self._generator = torch.Generator()
        self._values: dict[int, Tensor] = {}

    def renew(self, generator: torch.Generator) -> None:
        """A new training step begins."""
        self._generator, self._values = generator, {}

    def __call__(self, call: Call) -> Tensor:
        """(B, N) float32."""
        if call.layer not in self._values:
            drawn = gumbel(*call.x.shape[:2], generator=self._generator) * self.temperature
            self._values[call.layer] = drawn.to(call.x.device)
        return self._values[call.layer]
