"""A fit as somebody asked for it: what to fit, at which ratios, with which options."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from harness import registry, versions
from harness.compose import method_class
from harness.config import method_of, settings_of
from harness.errors import UserError, unknown
from harness.fitting.data import data_for
from harness.fitting.fit import VERSION, fit, keep_others, told_of
from harness.fitting.options import FitOptions
from harness.method import Method, MethodSettings
from harness.models import Model, adapters, load
from harness.sweep import MethodSpec, Sweep, validated
from results.plots.trajectories import trajectories

FITS = Path("results") / "runs" / "fits"


def stages(top: float, stage: float) -> tuple[float, ...]:
    """Rising targets that are `stage` apart, the last one being `top`. Raises UserError for a top outside (0, 0.9]."""
    if not 0 < top <= 0.9:
        raise UserError(f"--ratio must lie in (0, 0.9], got {top:g} (0.2 means 20 %)")
    rising = [round(i * stage, 4) for i in range(1, math.ceil(top / stage)) if i * stage < top - 1e-9]
    return (*rising, top)


@dataclass(frozen=True)
class Request:
    """settings: the method's own, without the ratio; those that belong to a run, because one adapter serves all of
    their values, are left at their defaults. ratios: rising targets, for a method that has a ratio. own: the options of
    the method's fit."""

    method: str
    settings: Mapping[str, Any]
    ratios: tuple[float, ...]
    options: FitOptions = field(default_factory=lambda: FitOptions.model_validate({}))
    own: MethodSettings | None = None

    @property
    def methods(self) -> list[Method]:
        """The method's objects, one per stage. Raises UserError for settings that no fit is made for."""
        has_ratio = "ratio" in method_class(self.method).Settings.model_fields
        spec = MethodSpec(name=self.method, settings=dict(self.settings))
        made = settings_of(spec, self.ratios if has_ratio else (0.0,))
        if getattr(made[0].settings, "trajectory", False):
            raise UserError(
                f"adapter {made[0].adapter()!r} is a by-product of a fit to a higher ratio: fit that one, and leave "
                "trajectory out"
            )
        return list({one.adapter(): adapters.as_fitted(one) for one in made}.values())

    def check(self) -> None:
        """Raises UserError for settings that the fit would not heed."""
        asked = method_of(self.method, self.settings)
        fitted = adapters.as_fitted(asked).settings
        idle = [name for name in self.settings if getattr(asked.settings, name) != getattr(fitted, name)]
        if idle:
            hint = "; add refitted=true for weights fitted under it" if "control" in idle else ""
            raise UserError(
                f"setting {', '.join(idle)} of {self.method!r} belongs to a run, and one fit serves all of its values: "
                f"leave it out{hint}"
            )
        _ = self.methods  # refuses what no fit is made for

    def run(
        self,
        model: str,
        out: Path,
        *,
        device: str = "cpu",
        data: Path | None = None,
        skip_bad: bool = False,
        variant: str | None = None,
        revision: str | None = None,
        prompts: Path | None = None,
        say: Callable[[str], None] = lambda _line: None,
    ) -> list[Path]:
        """Fit on a freshly loaded model; an interrupted fit goes on. prompts: a file of prompts, for which the model
        generates the latents to fit on. say: hears what takes long before the fit begins. Returns the paths of the
        adapters, and of the picture of the ratios where there is one; nothing in the further processes of a launch on
        several devices."""
        loaded = load(model, device=device, adapters=(out,), variant=variant, revision=revision)
        methods = self.methods
        # What a model asks of fits by default (its number of timestep regions, say); a preset and the user win.
        kind, asked = methods[0].FitSettings, _asked(loaded.facts.get("fit", {}))
        given = self.own.model_dump(exclude_unset=True) if self.own else {}
        base = methods[0].rests_on
        of_fit, of_loop = methods[0].fit_defaults(adapters.state_of(base, loaded) if base else None)
        own = validated(kind, {k: v for k, v in asked.items() if k in kind.model_fields} | of_fit | given)
        of_model = {k: v for k, v in asked.items() if k in FitOptions.model_fields}
        options = validated(FitOptions, of_model | of_loop | self.options.model_dump(exclude_unset=True))
        precision = "bf16" if options.precision == "bfloat16" else "no"
        accelerator = Accelerator(cpu=device == "cpu", mixed_precision=precision)  # makes this process's GPU "cuda"
        told = told_of(methods[0], loaded, options, own)
        keep_others(methods, out, told)  # before latents are made
        trains = methods[0].fitting(loaded.backbone, 20, own).trains
        with accelerator.main_process_first():  # the others find its cache
            samples = data_for(
                loaded, options, trains=trains, folder=data, work=FITS, skip_bad=skip_bad, prompts=prompts, say=say
            )
        chosen = [
            VERSION, self.method, [one.settings.model_dump(mode="json") for one in methods],
            options.model_dump(exclude={"save_seconds"}), own.model_dump(), loaded.digest,
            versions.of_source(type(methods[0])), samples.digest,
        ]  # fmt: skip
        work = FITS / f"{self.method}-{hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:8]}"
        paths = fit(methods, loaded, options, samples, out, work, own=own, accelerator=accelerator)
        if not accelerator.is_main_process:
            return []
        logs = [work / f"{one.adapter()}.csv" for one in methods]
        drawn = trajectories(logs, work / "ratios.png", title=f"{methods[-1].adapter()}: ratios during the fit")
        return [*paths, drawn] if drawn else paths


def missing(sweep: Sweep, model: Model) -> list[Request]:
    """The fits that a sweep needs and its model has no adapters for: one for each, all equally long."""
    found = set(model.adapter_files())
    wanted: dict[str, Request] = {}
    for spec in sweep.methods:
        if "@" in spec.name:
            continue  # sweeps what is fitted
        for method in (one for made in settings_of(spec, sweep.ratios) for one in made.members()):
            if method.needs_state and method.ratio != 0 and method.adapter() not in found:
                settings = {k: v for k, v in method.settings.model_dump(mode="json").items() if k != "ratio"}
                wanted[method.adapter()] = Request(method.name, settings, (method.ratio or 0.0,))
    return sorted(wanted.values(), key=lambda request: request.methods[0].rests_on is not None)


def _asked(notes: dict[str, Any]) -> dict[str, Any]:
    """The options of fits in a model's notes. Raises UserError for what is none of any method's, nor of the loop."""
    if not notes:
        return {}
    known = set(FitOptions.model_fields) - {"stage"}  # the stages are set before a model is there
    for name in registry.methods:
        with suppress(UserError):  # somebody else's that cannot be imported
            known |= set(registry.methods.get(name).FitSettings.model_fields)
    for name in notes.keys() - known:
        raise unknown("option of fits in harness.json", name, known)
    return notes
