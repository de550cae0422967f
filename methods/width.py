"""Width pruning: self-attention heads and hidden MLP channels are taken out for good, the same share in every block.

Calibrated without training: importance is the mean square of the diffusion loss's gradient by a factor on each head and
channel (first-order Taylor; Molchanov et al., 2019, Eq. 8) over calibration images. `width-ft` fine-tunes what is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.backbones.base import Backbone
from harness.method import CalibrationPass, FittedSettings, Fitting, Method, MethodSettings, Training
from harness.spec import State

_BATCHES = 32


class Importance(NamedTuple):
    """heads: (layers, heads). channels: (layers, channels). What goes is the nearest number to the ratio's share."""

    heads: Tensor
    channels: Tensor

    def kept(self, ratio: float) -> tuple[list[Tensor], list[Tensor]]:
        """The indices that stay, layer by layer, ascending."""
        return tuple(  # type: ignore[return-value]
            [row.topk(_left(ratio, len(row))).indices.sort().values for row in scores] for scores in self
        )

    def masks(self, ratio: float) -> tuple[list[Tensor], list[Tensor]]:
        """The same as factors: 1 stays, 0 goes."""
        return tuple(  # type: ignore[return-value]
            [torch.zeros_like(row).index_fill(0, index, 1.0) for row, index in zip(scores, indices, strict=True)]
            for scores, indices in zip(self, self.kept(ratio), strict=True)
        )


class Width(Method):
    """Heads and MLP channels that matter least are gone, at every step."""

    name = "width"
    parts = frozenset()
    requires = frozenset({"narrower blocks"})
    needs_state = True
    source = "Molchanov et al., 2019, Importance Estimation for Neural Network Pruning"
    training: ClassVar[Training] = "calibrated"

    def adapter(self) -> str:
        return self.name  # one calibration serves every ratio

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        assert state is not None
        with backbone.pruned_width(*_importance(state).kept(self.ratio or 0.0)):
            yield

    def effective_ratio(self, state: State | None) -> float | None:
        """The mean of both shares that went."""
        if state is None:
            return self.ratio
        found = _importance(state)
        kept = found.kept(self.ratio or 0.0)
        shares = [1 - len(index[0]) / scores.shape[1] for scores, index in zip(found, kept, strict=True)]
        return sum(shares) / len(shares)

    def dummy_state(self, backbone: Backbone, table: Tensor | None = None) -> State:
        heads, channels = (torch.arange(float(size)).expand(backbone.layers, size) for size in backbone.extent())
        return State({"heads": heads, "channels": channels})

    def fitting(self, backbone: Backbone, steps: int, options: MethodSettings | None = None) -> Fitting:
        found: list[Importance] = []
        return Fitting(
            module=nn.Module(),
            calibrate=lambda watch: found.append(measured(backbone, watch)),
            state=lambda: State(found[0]._asdict(), {"batches": _BATCHES}),
            trains=False,
        )


class WidthFT(Width):
    """The same, and what is left is fine-tuned (LoRA)."""

    name = "width-ft"
    Settings = FittedSettings
    training = "trained"

    def adapter(self) -> str:
        return Method.adapter(self)

    def fitting(self, backbone: Backbone, steps: int, options: MethodSettings | None = None) -> Fitting:
        found: list[Importance] = []
        now = [0.0]

        @contextmanager
        def attach() -> Iterator[None]:
            with backbone.masked_width(*found[0].masks(now[0])):
                yield

        return Fitting(
            module=nn.Module(),
            calibrate=lambda watch: found.append(measured(backbone, watch)),
            attach=attach,
            target=lambda ratio, _step, _steps: now.__setitem__(0, ratio),
            log=lambda: {"ratio": now[0]},
            state=lambda: State(found[0]._asdict(), {"batches": _BATCHES}),
        )


def _left(ratio: float, count: int) -> int:
    return max(1, count - round(ratio * count))


def measured(backbone: Backbone, watch: CalibrationPass) -> Importance:
    """Importance on calibration samples."""
    device = next(backbone.transformer.parameters()).device
    sizes = backbone.extent()
    factors = [[torch.ones(size, device=device, requires_grad=True) for _ in backbone.blocks] for size in sizes]
    totals = [[torch.zeros(size, device=device) for _ in backbone.blocks] for size in sizes]

    def each(model_output: Tensor, target: Tensor) -> None:
        F.mse_loss(model_output, target).backward()
        for some, sums in zip(factors, totals, strict=True):
            for factor, total in zip(some, sums, strict=True):
                assert factor.grad is not None
                total += factor.grad.square()
                factor.grad = None

    with torch.enable_grad(), backbone.masked_width(*factors):
        watch(each, batches=_BATCHES)
    return Importance(*(torch.stack(sums) / _BATCHES for sums in totals))


def _importance(state: State) -> Importance:
    return Importance(state.tensors["heads"], state.tensors["channels"])
