"""Uniform ratios: mixture of depths (MoD; Raposo et al., 2024) as the DiffCR paper uses it: one fixed compression ratio
in every layer and at every timestep, no auxiliary loss. Its routers are those of DiffCR here: they start as readings of
the tokens' sensitivity and stay so, the tokens being drawn with noise; `preset=paper` trains them and lets them decide
alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from harness.backbones.base import Backbone
from harness.method import Control, Fitting, Method, MethodSettings
from harness.spec import Call, State
from harness.tokens import kept_count
from methods.common.counts import Counts
from methods.common.routing import Routed, Routers, calibration, random_routers
from methods.common.routing_settings import RoutingFit, RoutingSettings, defaults, token_controls


class Uniform(Method):
    """The int((1 - c) N) tokens with the highest scores go through each block."""

    name = "uniform"
    Settings = RoutingSettings
    FitSettings = RoutingFit
    needs_state = True
    source = "Raposo et al., 2024, Mixture-of-Depths; You et al., 2025, DiffCR, Sec. 3.1"
    training = "trained"
    selects = "changing"
    settings: RoutingSettings

    def adapter(self) -> str:
        return super().adapter() + self.settings.suffix

    def controls(self, state: State | None) -> Sequence[Control]:
        swapped = token_controls(self.settings.control)
        return (*swapped, Control("tokens", "random-ft", None, {}, other="random-ft")) if swapped else ()

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        assert state is not None
        routed = Routed.fitted(state.facts, self.settings.temperature, self.settings.control)
        counts = Counts([self.ratio or 0.0] * backbone.layers, self.settings.multiple, "floor")
        with _advised(backbone, routed, state.tensors["router"], counts.of):
            yield

    def dummy_state(self, backbone: Backbone, table: Tensor | None = None) -> State:
        return random_routers(backbone)

    def fit_defaults(self, given: State | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        return defaults(self.settings, RoutingFit.PAPER)

    def fitting(self, backbone: Backbone, steps: int, options: MethodSettings | None = None) -> Fitting:
        chosen = RoutingFit.model_validate(options.model_dump() if options else self.fit_defaults()[0])
        routers, routed = Routers(backbone.layers, backbone.width), Routed.training(chosen, self.settings.control)
        current = [0.0]

        def aim(ratio: float, step: int, _steps: int) -> None:
            current[0], routed.step = ratio, step

        @contextmanager
        def attach() -> Iterator[None]:
            with _advised(
                backbone, routed, routers.weight, lambda _layer, tokens: kept_count(current[0], tokens, "floor")
            ):
                yield

        return Fitting(
            module=routers,
            attach=attach,
            groups={"weight": chosen.router_lr},
            target=aim,
            renew=routed.renew,
            calibrate=calibration(routers, backbone, chosen),
            log=lambda: {"ratio": current[0]},
            state=lambda: State({"router": routers.weight.detach().clone()}, chosen.model_dump()),
        )


@contextmanager
def _advised(backbone: Backbone, routed: Routed, weight: Tensor, kept: Callable[[int, int], int]) -> Iterator[None]:
    """kept: (layer, tokens) -> how many of them go through."""

    def block(call: Call) -> Tensor:
        return routed.block(call, weight[call.layer], kept(call.layer, call.x.shape[1]))

    with routed.on(backbone, block):
        yield
