"""Random tokens kept, the others recovered by similarity: AT-EDM without its attention maps. A baseline that every
method that chooses tokens has to beat.

Letters: B batch, N tokens, K kept tokens, M = K or N.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import Field
from torch import Tensor

from harness.backbones.base import Backbone
from harness.method import Method
from harness.spec import Call, State
from harness.tokens import choose, kept_count, run_on
from methods.common.exempt import MOST, HalfExemptSettings
from methods.common.noise import SeededNoise
from methods.common.recovery import recovered


class RandomKeepSettings(HalfExemptSettings):
    ratio: float = Field(
        0.2, ge=0.0, le=MOST, description="share of tokens that are spared, on average over all layers and steps"
    )


class RandomKeep(Method):
    """Each block runs on tokens drawn at random at each step; the others get the update of the most similar one."""

    name = "random-keep"
    Settings = RandomKeepSettings
    selects = "changing"
    source = "ours, with the recovery of Wang et al., 2024 (AT-EDM)"

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        settings: RandomKeepSettings = self.settings  # type: ignore[assignment]
        if not settings.ratio:
            yield
            return
        noise = SeededNoise()

        def block(call: Call) -> Tensor:
            if not settings.runs(call.step):
                return call.run(call.x)
            share = settings.share(self.name, backbone.layers, call.step.count, backbone.start)
            k = kept_count(share, call.x.shape[1])
            order = choose(noise(call), k)  # (B, M)
            out = run_on(order, call, k)
            return backbone.compiled(recovered)(call.x, out, order[:, :k], others=order[:, k:])

        with noise.on(backbone), backbone.advise("block", block, settings.layers_of(backbone.layers)):
            yield
