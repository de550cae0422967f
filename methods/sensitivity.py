"""Training-free routing by sensitivity (ours): calibrated routers say what each token's update is worth to the
prediction, and Gumbel noise drawn at every step lets through in one step what was left out in another, so that errors
do not pile up on the same tokens. See `methods.common.sensitivity` and `methods.common.noise`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from harness.backbones.base import Backbone
from harness.method import CalibrationPass, Fitting, Method, MethodSettings, RatioSettings
from harness.spec import Call, State
from harness.tokens import kept_count
from methods.common.routing import Routed, Routers
from methods.common.sensitivity import BATCHES, DRAWS, STEPS, read_sensitivity


class SensitivitySettings(RatioSettings):
    ratio: float = Field(0.2, ge=0.0, le=0.9, description="share of tokens that bypass each layer which drops some")
    temperature: float = Field(
        0.5,
        ge=0,
        description="Gumbel noise per step on the logarithm of the sensitivity: the highest log s + temperature * "
        "noise go through; 0: none",
    )
    first_layers: int = Field(0, ge=0, description="layers at the start that keep all tokens")
    last_layers: int = Field(0, ge=0, description="layers at the end that keep all tokens")


class Sensitivity(Method):
    """The tokens whose update the prediction hardly feels bypass each block, drawn anew at each step."""

    name = "sensitivity"
    Settings = SensitivitySettings
    needs_state = True
    training = "calibrated"
    selects = "changing"
    settings: SensitivitySettings
    source = "ours"

    def adapter(self) -> str:
        return self.name  # one calibration serves every ratio

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        assert state is not None
        chosen, weight = self.settings, state.tensors["router"]
        routed = Routed.fitted({"rescale": "none", "score_scale": 1.0}, chosen.temperature)

        def block(call: Call) -> Tensor:
            return routed.block(call, weight[call.layer], kept_count(chosen.ratio, call.x.shape[1]))

        last = max(0, backbone.layers - chosen.last_layers)
        with routed.on(backbone, block, range(min(chosen.first_layers, last), last)):
            yield

    def effective_ratio(self, state: State | None) -> float | None:
        return None if self.settings.first_layers or self.settings.last_layers else self.ratio

    def dummy_state(self, backbone: Backbone, table: Tensor | None = None) -> State:
        weight = Routers(backbone.layers, backbone.width).weight.detach()
        return State({"router": weight.to(next(backbone.transformer.parameters()).dtype)})

    def fitting(self, backbone: Backbone, steps: int, options: MethodSettings | None = None) -> Fitting:
        found: dict[str, Tensor] = {}

        def calibrate(watch: CalibrationPass) -> None:
            found["router"] = read_sensitivity(backbone, watch).solve()

        facts: dict[str, Any] = {"steps": STEPS, "batches": BATCHES, "draws": DRAWS}
        return Fitting(module=nn.Module(), calibrate=calibrate, state=lambda: State(dict(found), facts), trains=False)
