"""Fitted random tokens (ours): the control that learned routing has to beat. At every step other tokens, drawn at
random, go through each block, in a fit as long as the others' and at inference: stochastic depth (Huang et al., 2016),
token by token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from harness.backbones.base import Backbone
from harness.method import FittedSettings, Fitting, Method, MethodSettings
from harness.spec import Call, State
from harness.tokens import choose, kept_count, run_on
from methods.common.noise import FreshNoise, SeededNoise, Source


class RandomFT(Method):
    """Other tokens, drawn at random, bypass each block at each step, with weights fine-tuned for that (LoRA)."""

    name = "random-ft"
    Settings = FittedSettings
    needs_state = True
    training = "trained"
    selects = "changing"
    source = "ours; Huang et al., 2016, Deep Networks with Stochastic Depth"

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        noise = SeededNoise(1.0)
        with noise.on(backbone), _advised(backbone, noise, lambda: self.ratio or 0.0):
            yield

    def dummy_state(self, backbone: Backbone, table: Tensor | None = None) -> State:
        return State()

    def fitting(self, backbone: Backbone, steps: int, options: MethodSettings | None = None) -> Fitting:
        noise, current = FreshNoise(1.0), [0.0]

        @contextmanager
        def attach() -> Iterator[None]:
            with _advised(backbone, noise, lambda: current[0]):
                yield

        return Fitting(
            module=nn.Module(),
            attach=attach,
            target=lambda ratio, _step, _steps: current.__setitem__(0, ratio),
            renew=noise.renew,
            log=lambda: {"ratio": current[0]},
            state=lambda: State({}, {}),
        )


@contextmanager
def _advised(backbone: Backbone, noise: Source, ratio: object) -> Iterator[None]:
    def block(call: Call) -> Tensor:
        k = kept_count(ratio(), call.x.shape[1], "floor")  # type: ignore[operator]
        if k == call.x.shape[1]:
            return call.run(call.x)
        return run_on(choose(noise(call), k), call, k)

    with backbone.advise("block", block):
        yield
