"""DiffCR at inference: nearest bins frozen, no work beyond scores, top-k, gather and scatter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from harness.backbones.base import Backbone
from harness.method import Fitting, Method, MethodSettings
from harness.spec import Call, State, Step
from harness.tokens import kept_count
from methods.common.routing import Routed, RoutingSettings, random_routers
from methods.diffcr.fit import DiffCRFit, fitting
from methods.diffcr.ratios import region_of, step_shares


class DiffCRSettings(RoutingSettings):
    ratio: float = Field(0.2, ge=0.0, le=0.9, description="mean compression ratio that the fit aimed at")
    axes: Literal["layer", "layer,timestep"] = Field(
        "layer,timestep", description="one ratio per layer (DiffCR-L), or per layer and timestep region (DiffCR-LT)"
    )


class DiffCR(Method):
    """Token routing with learned ratios per layer (-L) or per layer and timestep region (-LT)."""

    name = "diffcr"
    Settings = DiffCRSettings
    FitSettings = DiffCRFit
    needs_state = True
    source = "You et al., 2025, Layer- and Timestep-Adaptive Differentiable Token Compression Ratios (DiffCR)"
    training = "trained"
    selects = "changing"
    tabled = True
    host = frozenset({"ratios"})

    @property
    def by_timestep(self) -> bool:
        return "timestep" in self.settings.axes  # type: ignore[attr-defined]

    def adapter(self) -> str:
        return f"diffcr-{'lt' if self.by_timestep else 'l'}-{self.percent}{self.seed_suffix}"

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        assert state is not None
        table: list[list[float]] = state.tensors["ratios"].tolist()  # (layers, regions)
        weight = state.tensors["router"]
        routed = Routed.fitted(state.facts, self.settings.temperature)  # type: ignore[attr-defined]
        layers = [layer for layer, row in enumerate(table) if any(row) or routed.full]
        region = 0

        def enter(step: Step) -> None:
            nonlocal region
            region = region_of(step.index, step.count, len(table[0]))

        def block(call: Call) -> Tensor:
            kept = kept_count(table[call.layer][region], call.x.shape[1])
            return routed.block(call, weight[call.layer], kept)

        with backbone.on_step(enter), routed.on(backbone, block, layers):
            yield

    def reached(self, state: State | None) -> float | None:
        """Mean of the frozen ratios over layers and sampling steps."""
        if state is None:
            return None
        table = state.tensors["ratios"]
        return float((table.mean(0) * step_shares(state.facts["steps"], table.shape[1])).sum())

    def cost_state(self, backbone: Backbone, table: Tensor | None = None) -> State:
        """Without a table, every layer has the ratio that is asked for."""
        ratios = torch.full((backbone.layers, 1), self.ratio or 0.0) if table is None else table
        made = random_routers(backbone)
        return State(made.tensors | {"ratios": ratios}, made.facts | {"steps": ratios.shape[1]})

    def fitting(self, backbone: Backbone, steps: int, options: MethodSettings | None = None) -> Fitting:
        return fitting(
            backbone, steps, self.by_timestep, DiffCRFit.model_validate(options.model_dump() if options else {})
        )
