"""Depth pruning: whole blocks are left out (in the manner of BK-SDM; Kim et al., 2024).

Calibrated without training: blocks are taken out one after another, each time the one whose removal changes the dense
model's predictions least, over calibration images at all timesteps. `depth-ft` fine-tunes what is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from harness.backbones.base import Backbone
from harness.method import CalibrationPass, FittedSettings, Fitting, Method, MethodSettings, Training
from harness.spec import Call, State

_BATCHES = 8


class Depth(Method):
    """The blocks that matter least do not run, at any step."""

    name = "depth"
    needs_state = True
    cpu_tensors = frozenset({"order"})
    source = "Kim et al., 2024, BK-SDM: A Lightweight, Fast, and Cheap Version of Stable Diffusion"
    training: ClassVar[Training] = "calibrated"

    def adapter(self) -> str:
        return self.name  # one calibration serves every ratio

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        assert state is not None
        with _without(backbone, self._dropped(state.tensors["order"])):
            yield

    def _dropped(self, order: Tensor) -> list[int]:
        found: list[int] = order[: dropped_count(self.ratio or 0.0, len(order))].tolist()
        return found

    def effective_ratio(self, state: State | None) -> float | None:
        if state is None:
            return self.ratio
        order = state.tensors["order"]
        return len(self._dropped(order)) / len(order)

    def dummy_state(self, backbone: Backbone, table: Tensor | None = None) -> State:
        return State({"order": torch.arange(backbone.layers)})

    def fitting(self, backbone: Backbone, steps: int, options: MethodSettings | None = None) -> Fitting:
        order: list[int] = []
        return Fitting(
            module=nn.Module(),
            calibrate=lambda watch: order.extend(removal_order(backbone, watch)),
            state=lambda: State({"order": torch.tensor(order)}, {"batches": _BATCHES}),
            trains=False,
        )


class DepthFT(Depth):
    """The same, and what is left is fine-tuned (LoRA)."""

    name = "depth-ft"
    Settings = FittedSettings
    training = "trained"

    def adapter(self) -> str:
        return Method.adapter(self)

    def fitting(self, backbone: Backbone, steps: int, options: MethodSettings | None = None) -> Fitting:
        order: list[int] = []
        now = [0.0]

        @contextmanager
        def attach() -> Iterator[None]:
            with _without(backbone, order[: dropped_count(now[0], len(order))]):
                yield

        return Fitting(
            module=nn.Module(),
            calibrate=lambda watch: order.extend(removal_order(backbone, watch)),
            attach=attach,
            target=lambda ratio, _step, _steps: now.__setitem__(0, ratio),
            log=lambda: {"ratio": now[0]},
            state=lambda: State({"order": torch.tensor(order)}, {"batches": _BATCHES}),
        )


def dropped_count(ratio: float, layers: int) -> int:
    """How many of the blocks this ratio leaves out: the nearest number, at least one where it is above 0."""
    return min(layers - 1, max(1, round(ratio * layers))) if ratio else 0


def removal_order(backbone: Backbone, watch: CalibrationPass) -> list[int]:
    """The layers, that one first whose removal changes predictions least, then the least beside it, and so on."""
    dense: list[Tensor] = []
    watch(lambda model_output, _target: dense.append(model_output), batches=_BATCHES)
    order: list[int] = []
    while len(order) < backbone.layers:
        left = [layer for layer in range(backbone.layers) if layer not in order]
        order.append(min(left, key=lambda layer: _change(backbone, watch, [*order, layer], dense)))
    return order


def _change(backbone: Backbone, watch: CalibrationPass, layers: list[int], dense: list[Tensor]) -> float:
    """Mean squared distance to the dense predictions without these layers."""
    errors: list[float] = []
    with _without(backbone, layers):
        watch(
            lambda model_output, _: errors.append(float((model_output - dense[len(errors)]).square().mean())),
            batches=_BATCHES,
        )
    return sum(errors) / len(errors)


@contextmanager
def _without(backbone: Backbone, layers: list[int]) -> Iterator[None]:
    def skip(call: Call) -> Tensor:
        return call.x

    with backbone.advise("block", skip, layers):
        yield
