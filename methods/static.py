"""Static token pruning: keep sets that do not depend on the image.

Strided and border-aware sets come from the grid alone. Calibrated ones are made once, without training: a token
position's importance in a layer is the mean norm of what the block adds there, relative to the token's own norm, over
calibration images and timesteps. The least important positions bypass the layer, always the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.backbones.base import Backbone
from harness.method import CalibrationPass, Fitting, Method, MethodSettings, RatioSettings
from harness.spec import Call, State
from harness.tokens import choose, kept_count, run_on


class StaticSettings(RatioSettings):
    sets: Literal["calibrated", "strided", "border"] = Field(
        "calibrated",
        description="calibrated: the positions that a layer changes most; strided: regular strides, other ones in each "
        "layer; border: the image's middle",
    )


class Static(Method):
    """Each layer runs on a keep set of its own, in every image and at every step."""

    name = "static"
    Settings = StaticSettings
    training = "calibrated"
    selects = "fixed"
    settings: StaticSettings
    source = "ours, after the static baselines of token pruning"

    @property
    def needs_state(self) -> bool:  # type: ignore[override]
        return self.settings.sets == "calibrated"

    def adapter(self) -> str:
        return self.name  # one calibration serves every ratio

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        made: dict[tuple[int, int, int], Tensor] = {}

        def means(call: Call) -> Tensor:
            """The importance (B, N) of the tokens that are there."""
            key = (call.layer, call.grid.height, call.grid.width)
            if key not in made:
                if state is None:
                    made[key] = _IMPORTANCE[self.settings.sets](*key).flatten()[None].to(call.x)
                else:
                    mean = state.tensors["importance"][call.layer].float()[None, None]  # of (layers, H, W)
                    made[key] = nn.functional.interpolate(mean, key[1:], mode="bilinear").flatten(1).to(call.x.device)
            everywhere = made[key].expand(len(call.x), -1)
            return everywhere if call.index is None else everywhere.gather(1, call.index)

        def block(call: Call) -> Tensor:
            k = kept_count(self.ratio or 0.0, call.x.shape[1])
            if k == call.x.shape[1]:
                return call.run(call.x)
            return run_on(choose(means(call), k), call, k)

        with backbone.advise("block", block):
            yield

    def dummy_state(self, backbone: Backbone, table: Tensor | None = None) -> State | None:
        return State({"importance": strided(0, 16, 16).expand(backbone.layers, 16, 16)}) if self.needs_state else None

    def fitting(self, backbone: Backbone, steps: int, options: MethodSettings | None = None) -> Fitting:
        totals: dict[int, Tensor] = {}
        counts: dict[int, Tensor] = {}
        shape: list[int] = []
        seen = [0]

        def block(call: Call) -> Tensor:
            out = call.run(call.x)
            added = (out - call.x).norm(dim=-1) / call.x.norm(dim=-1).clamp(min=1e-6)  # (B, N)
            everywhere = torch.arange(call.grid.tokens).expand(len(added), -1)
            index = (everywhere if call.index is None else call.index.cpu()).flatten()
            for sums, what in ((totals, added.float().cpu().flatten()), (counts, torch.ones(index.shape))):
                sums.setdefault(call.layer, torch.zeros(call.grid.tokens)).index_add_(0, index, what)
            shape[:] = [call.grid.height, call.grid.width]
            seen[0] += len(call.x) if call.layer == 0 else 0
            return out

        def calibrate(watch: CalibrationPass) -> None:
            with backbone.advise("block", block):
                watch()

        def state() -> State:
            mean = torch.stack([totals[layer] / counts[layer].clamp(min=1) for layer in sorted(totals)])
            return State({"importance": mean.view(-1, *shape)}, {"samples": seen[0]})

        return Fitting(module=nn.Module(), calibrate=calibrate, state=state, trains=False)


def strided(layer: int, height: int, width: int) -> Tensor:
    """Importance (H, W) whose highest values, however many, lie evenly over the grid (two additive recurrences of the
    plastic number's powers, Roberts, 2018); other positions come first in each layer."""
    row, column = torch.arange(height)[:, None], torch.arange(width)
    return (0.7548776662466927 * row + 0.5698402909980532 * column + 0.6180339887498949 * layer).remainder(1.0)


def border(layer: int, height: int, width: int) -> Tensor:
    """Importance (H, W): the distance to the nearest edge; of equal ones, regular strides choose."""
    row, column = torch.arange(height)[:, None], torch.arange(width)
    rows, columns = torch.minimum(row, height - 1 - row), torch.minimum(column, width - 1 - column)
    return torch.minimum(rows, columns) + 0.999 * strided(layer, height, width)


_IMPORTANCE = {"strided": strided, "border": border}
