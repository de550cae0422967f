"""DiffCR at inference: nearest bins frozen, no work beyond scores, top-k, gather and scatter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from harness.backbones.base import Backbone
from harness.method import Control, Fitting, Method, MethodSettings
from harness.spec import Call, State, Step
from methods.common.counts import Counts
from methods.common.routing import Routed, random_routers
from methods.common.routing_settings import RoutingSettings, TokenControl, defaults, token_controls
from methods.diffcr.fit import DiffCRFit, fitting
from methods.diffcr.ratios import region_of, step_shares

DiffCRControl = TokenControl | Literal["flat-layers", "averaged-timesteps", "reversed-timesteps"]


class DiffCRSettings(RoutingSettings):
    control: DiffCRControl = Field(  # type: ignore[assignment]  # more of them
        "",
        description="destroys one axis at equal cost, see `python -m harness attribute`. random-tokens: as many, drawn "
        "at random anew per image, step and layer; average-tokens: by each layer's logits averaged over the batch; "
        "flat-layers: the same mean, one ratio in all layers; averaged-timesteps: each layer's ratio averaged over its "
        "regions; reversed-timesteps: the regions' order reversed",
    )
    ratio: float = Field(0.2, ge=0.0, le=0.9, description="mean compression ratio that the fit aimed at")
    axes: Literal["layer", "layer,timestep"] = Field(
        "layer,timestep", description="one ratio per layer (DiffCR-L), or per layer and timestep region (DiffCR-LT)"
    )
    trajectory: bool = Field(
        False, description="with what a fit to a higher ratio left when its mean passed this one (by-product)"
    )

    same_ratios: bool = Field(
        False, description="refitted under the ratios of the fit without the control, in place of learning its own"
    )

    @property
    def suffix(self) -> str:
        return super().suffix + "-same-ratios" * self.same_ratios + "-trajectory" * self.trajectory

    @model_validator(mode="after")
    def _compared(self) -> DiffCRSettings:
        if self.same_ratios and not (self.refitted and self.control == "random-tokens"):
            raise ValueError("same_ratios is of weights that were refitted with random tokens: set refitted=true and "
                             "control=random-tokens")  # fmt: skip
        return self


class DiffCR(Method):
    """Token routing with learned ratios per layer (-L) or per layer and timestep region (-LT)."""

    name = "diffcr"
    Settings = DiffCRSettings
    FitSettings = DiffCRFit
    needs_state = True
    source = "You et al., 2025, Layer- and Timestep-Adaptive Differentiable Token Compression Ratios (DiffCR)"
    training = "trained"
    selects = "changing"
    per_layer_ratios = True
    cpu_tensors = frozenset({"ratios"})
    settings: DiffCRSettings

    @property
    def by_timestep(self) -> bool:
        return "timestep" in self.settings.axes

    def adapter(self) -> str:
        kind = "lt" if self.by_timestep else "l"
        return f"diffcr-{kind}-{self.percent}{self.seed_suffix}{self.settings.suffix}"

    def controls(self, state: State | None) -> Sequence[Control]:
        """Tokens, layers and, for -LT, timesteps."""
        if self.settings.control or state is None:
            return ()
        table = state.tensors["ratios"]

        def idle(control: str, axis: str) -> str:
            same = torch.allclose(self._table(state, control), table, atol=1e-6)
            return f"no {axis} axis to test: the table of ratios is flat along it" if same else ""

        def ratios(control: str, axis: str, refit: Mapping[str, Any] | None = None) -> Control:
            return Control(f"{axis}s", control, {"control": control}, refit, idle=idle(control, axis))

        random, average = token_controls("")
        found = [
            replace(random, refit={"control": random.name, "refitted": True}),
            Control(
                "tokens",
                "random-tokens-same-ratios",
                None,
                {"control": random.name, "refitted": True, "same_ratios": True},
            ),
            average,
            ratios("flat-layers", "layer", {"control": "flat-layers", "refitted": True}),
            Control("layers", "uniform", None, {}, other="uniform", idle=idle("flat-layers", "layer")),
        ]
        if self.by_timestep:
            found += [
                ratios("averaged-timesteps", "timestep", {"axes": "layer"}),  # fitted as such it is DiffCR-L
                ratios("reversed-timesteps", "timestep"),
            ]
        return found

    def _table(self, state: State, control: str, steps: int | None = None) -> Tensor:
        """The ratios (layers, regions) under a control; regions count as the sampling steps that they serve, of so
        many; None: of the fit's."""
        table = state.tensors["ratios"]
        if control == "flat-layers":
            return table.mean(0, keepdim=True).expand_as(table)
        if control == "averaged-timesteps":
            shares = step_shares(steps or state.facts["steps"], table.shape[1]).to(table)
            return (table * shares).sum(1, keepdim=True).expand_as(table)
        return table.flip(1) if control == "reversed-timesteps" else table

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        assert state is not None
        control = self.settings.control
        own = "" if self.settings.refitted else control  # a fit under a control has its table already
        table: list[list[float]] = self._table(state, own).tolist()  # (layers, regions)
        weight = state.tensors["router"]
        routed = Routed.fitted(state.facts, self.settings.temperature, control)
        layers = [layer for layer, row in enumerate(table) if any(row) or routed.full]

        def by_region(steps: int | None) -> list[Counts]:
            rows = self._table(state, own, steps).tolist()
            return [Counts(column, self.settings.multiple) for column in zip(*rows, strict=True)]

        region, sampled, counts = 0, 0, by_region(None)

        def enter(step: Step) -> None:
            nonlocal region, sampled, counts
            region = region_of(step.index, step.count, len(table[0]))
            if step.count != sampled:
                sampled, counts = step.count, by_region(step.count)

        def block(call: Call) -> Tensor:
            kept = counts[region].of(call.layer, call.x.shape[1])
            return routed.block(call, weight[call.layer], kept)

        with backbone.on_step(enter), routed.on(backbone, block, layers):
            yield

    def effective_ratio(self, state: State | None) -> float | None:
        """Mean of the frozen ratios over layers and the sampling steps of the fit. Another number of steps, which the
        regions do not share evenly (6 steps of 4 regions: 2, 1, 2, 1), is a little off it."""
        if state is None:
            return None
        table = state.tensors["ratios"]
        return float((table.mean(0) * step_shares(state.facts["steps"], table.shape[1])).sum())

    def dummy_state(self, backbone: Backbone, table: Tensor | None = None) -> State:
        """Without a table, every layer has the ratio that is asked for."""
        ratios = torch.full((backbone.layers, 1), self.ratio or 0.0) if table is None else table
        made = random_routers(backbone)
        return State(made.tensors | {"ratios": ratios}, made.facts | {"steps": ratios.shape[1]})

    @property
    def rests_on(self) -> DiffCR | None:
        if not self.settings.same_ratios:
            return None
        free = {"control": "", "refitted": False, "same_ratios": False}
        return DiffCR(self.settings.model_copy(update=free))

    def fit_defaults(self, given: State | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        own, loop = defaults(self.settings, DiffCRFit.PAPER)
        return own | ({"table": given.tensors["ratios"].tolist()} if given is not None else {}), loop

    def fitting(self, backbone: Backbone, steps: int, options: MethodSettings | None = None) -> Fitting:
        control = self.settings.control
        chosen = DiffCRFit.model_validate(options.model_dump() if options else self.fit_defaults()[0])
        return fitting(backbone, steps, self.by_timestep, chosen, control=control)
