"""Random token dropping: the floor that every token method must beat."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import Field
from torch import Tensor

from harness.backbones.base import Backbone
from harness.method import Method
from harness.spec import Call, State
from harness.tokens import choose, kept_count, run_on
from methods.common.exempt import MOST, ExemptSettings
from methods.common.noise import SeededNoise


class RandomSettings(ExemptSettings):
    ratio: float = Field(
        0.2, ge=0.0, le=MOST, description="share of tokens that are spared, on average over all layers and steps"
    )


class RandomDrop(Method):
    """Other tokens, drawn at random, bypass each block at each step."""

    name = "random"
    Settings = RandomSettings
    selects = "changing"

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        settings: RandomSettings = self.settings  # type: ignore[assignment]
        if not settings.ratio:
            yield
            return
        noise = SeededNoise()

        def block(call: Call) -> Tensor:
            if not settings.runs(call.step):
                return call.run(call.x)
            share = settings.share(self.name, backbone.layers, call.step.count, backbone.start)
            k = kept_count(share, call.x.shape[1])
            return run_on(choose(noise(call), k), call, k)

        with noise.on(backbone), backbone.advise("block", block, settings.layers_of(backbone.layers)):
            yield
