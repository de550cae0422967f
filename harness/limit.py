"""The limit of a method that thins out tokens: dense on as many of them in every block, without choosing or moving any.

What a method takes beyond its limit is overhead. The ratio of products is not the yardstick: elementwise work, text and
short rows do not shrink in proportion, so that even dense on fewer tokens does not reach it.

Letters: B batch, N tokens, K tokens that a block runs on, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import get_args

import torch
from torch import Tensor

from harness.backbones.base import Backbone
from harness.kernels import routing
from harness.method import Method
from harness.spec import Call, Part

Counts = Mapping[tuple[int, int], int]
"""How many tokens a block ran on, by the step's index and the layer; none: it did not run."""


class Seen:
    """What blocks ran on. counts: see `Counts`. inside: the same for their parts, which a method may thin out alone, by
    the part, too. whole: N."""

    def __init__(self) -> None:
        self.counts: dict[tuple[int, int], int] = {}
        self.inside: dict[tuple[int, int], dict[str, int]] = {}
        self.whole = 0

    @property
    def thinned(self) -> bool:
        """Whether some block ran on a part of the tokens."""
        return any(count < self.whole for count in self.counts.values())

    @contextmanager
    def on(self, backbone: Backbone, *, parts: bool = False) -> Iterator[None]:
        """Watch blocks, and their parts where `parts` says so; to be entered when the method is on. What watches is
        between the method and its blocks, where no fused form runs: they run plainly, on as many tokens."""

        def block(call: Call) -> Tensor:
            self.whole = backbone.tokens
            self.counts[call.step.index, call.layer] = call.x.shape[1]
            return call.run(call.x)

        def inside(call: Call) -> Tensor:
            self.inside.setdefault((call.step.index, call.layer), {})[call.part] = call.x.shape[1]
            return call.run(call.x)

        with ExitStack() as stack:
            stack.enter_context(routing.using("plain"))
            stack.enter_context(backbone.advise("block", block))
            for part in get_args(Part)[1:] if parts else ():
                if layers := [layer for layer in range(backbone.layers) if part in backbone.parts_of(layer)]:
                    stack.enter_context(backbone.advise(part, inside, layers))
            yield


def known(method: Method, seen: Seen) -> bool:
    """Whether dense on as many tokens is what a method comes down to: not so where another member of a composition
    spares whole steps, parts, channels or bits."""
    return seen.thinned and len(method.members()) == 1


@contextmanager
def dense_on(backbone: Backbone, counts: Counts) -> Iterator[None]:
    """Dense, each block on K tokens. What it gives is no image: it is for cost alone. Blocks on as many tokens hand
    them on to each other, so that a step copies no more than once for every K."""
    held: dict[int, Tensor] = {}  # the last ones of each K; N is the most

    def block(call: Call) -> Tensor:
        x = call.x
        if call.layer == 0:
            held.clear()
            held[x.shape[1]] = x
        if count := counts.get((call.step.index, call.layer), 0):
            if x.shape[1] != count:
                x = held[count] if count in held else held[max(held)][:, :count].contiguous()
            places = torch.arange(count, device=x.device).expand(len(x), -1) if backbone.uses_positions else None
            held[count] = x = call.run(x, places)
        if call.layer == backbone.layers - 1:
            x = held[max(held)]
            held.clear()  # a graph keeps no more than it has to
        return x

    with backbone.unchecked(), backbone.advise("block", block):
        yield
