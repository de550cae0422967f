"""Random token dropping: the floor that every token method must beat."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from harness.backbones.base import Backbone
from harness.method import Method
from harness.spec import Call, State
from harness.tokens import kept_count, scatter, take, top_k


class RandomDrop(Method):
    """Other tokens, drawn at random, bypass each block at each step."""

    name = "random"
    selects = "changing"

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        generators: list[torch.Generator] = []  # one per image, on the CPU: the same draws on every device

        def block(call: Call) -> Tensor:
            k = kept_count(self.ratio or 0.0, call.x.shape[1])
            if k == call.x.shape[1]:
                return call.run(call.x)
            if not generators:
                generators.append(torch.Generator().manual_seed(0))
            index = top_k(torch.rand(call.x.shape[:2], generator=generators[0]), k).to(call.x.device)  # (B, K)
            return scatter(call.x, index, call.run(take(call.x, index), index))

        with backbone.on_begin(generators.clear), backbone.advise("block", block):
            yield
