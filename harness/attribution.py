"""What each axis of a method is worth: the method beside controls of equal cost that destroy one axis each.

A control is an ordinary point: the method under another value of its setting `control`. Weights that were fitted adapt
to the choice that they saw, so there are two forms: *swapped* (the same weights) and *refitted* (a fit as long, with
the axis destroyed from its start).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import api, config, plan, registry
from harness.compose import method_class
from harness.errors import UserError
from harness.executors.execute import Listener
from harness.method import Method
from harness.models import Model, adapters
from harness.sweep import DENSE, MethodSpec, Sweep
from results.analysis.attribution import Pair
from results.run import Run
from results.tables import attribution as tables

TRAINING = "dense-ft"
FEWEST = 8  # images, below which no p-value is given


@dataclass(frozen=True)
class _Wanted:
    """A control to run: of which ratio, axis, name, form, and with which settings."""

    ratio: float | None
    axis: str
    control: str
    form: str
    settings: dict[str, Any]


def attribute(
    method: str,
    *,
    ratio: float | Sequence[float] | str = 0.3,
    settings: Mapping[str, Any] | None = None,
    refit: bool = False,
    isolate: bool = False,
    point_timeout: float | None = None,
    fresh: bool = False,
    plugins: Sequence[str | Path] = (),
    out: str | Path | None = None,
    name: str | None = None,
    listener: Listener | None = None,
    **words: Any,
) -> Run:
    """`harness.attribute("diffcr", ratio=0.3)`: what each axis of a method is worth. settings: of the method. words: of
    `harness.run` (model, task, cases, adapters, ...). The table is `.attribution` of the run that it returns. Raises
    UserError as `run_attribution`."""
    given = {**words, "methods": [{"name": method, "settings": dict(settings or {})}], "ratios": ratio}
    sweep = api.sweep_of(given, plugins=plugins)
    folder = run_folder(sweep, out, name)
    return run_attribution(
        sweep, folder, refit=refit, isolate=isolate, point_timeout=point_timeout, fresh=fresh, listener=listener
    )


def run_folder(sweep: Sweep, out: str | Path | None, name: str | None) -> Path:
    """Where it goes by default: results/runs/attribute-..."""
    return api.run_folder(sweep, out, name or (None if out is not None else f"attribute-{sweep.run_name()}"))


def run_attribution(
    sweep: Sweep,
    folder: Path,
    *,
    refit: bool = False,
    isolate: bool = False,
    point_timeout: float | None = None,
    fresh: bool = False,
    listener: Listener | None = None,
) -> Run:
    """Run the sweep's one method and its controls, and write tables/attribution.csv, attribution.md and
    plots/attribution.png into the run folder. refit: also controls that were fitted as such, whose missing adapters are
    fitted first, into the sweep's first folder of adapters. Returns the run; its `attribution` is the table.

    Raises UserError for a method without axes, several methods, or budgets.
    """
    hear = listener or Listener()
    specs = [spec for spec in sweep.methods if spec.name != DENSE]
    if len(specs) != 1 or sweep.match:
        raise UserError("attribute takes one method, at ratios: python -m harness attribute diffcr --ratio 0.3")
    (spec,) = specs
    if method_class(spec.name).controls is Method.controls:
        able = [name for name in registry.methods if registry.methods.get(name).controls is not Method.controls]
        raise UserError(f"method {spec.name!r} has no axes that a control could destroy; those that have: "
                        f"{', '.join(able)}")  # fmt: skip
    if sweep.cases < FEWEST:
        hear.say(f"{sweep.cases} images are fewer than {FEWEST}: no p-values")
    model = plan.load_model(sweep)
    methods = config.settings_of(spec, sweep.ratios)
    wanted = [one for method in methods for one in _wanted(method, model, refit, hear)]
    specs = [
        MethodSpec(name=spec.name, settings=_given(method)) for method in methods
    ] + [MethodSpec(name=spec.name, settings=one.settings) for one in wanted]  # fmt: skip
    trained = [MethodSpec(name=TRAINING)] if _has(TRAINING, model) else []
    asked = sweep.model_copy(update={"methods": (*specs, *trained)})
    run = api.run_sweep(
        asked, folder, listener=hear, fit=refit, isolate=isolate, point_timeout=point_timeout, fresh=fresh
    )
    pairs = list(_pairs(run, spec.name, methods, wanted))
    run.attribution = tables.frame(run, pairs)
    tables.write(run, run.attribution, folder)
    return run


def _given(method: Method) -> dict[str, Any]:
    return method.settings.model_dump(mode="json")


def _wanted(method: Method, model: Model, refit: bool, hear: Listener) -> list[_Wanted]:
    """The controls of one method that differ from it."""
    found = []
    for control in method.controls(adapters.state_of(method, model)):
        if control.idle:
            hear.say(f"{method.name} {100 * (method.ratio or 0):g} %: {control.idle}")
            continue
        own = _given(method)
        found.append(_Wanted(method.ratio, control.axis, control.name, "swapped", own | dict(control.settings)))
        if refit and control.refit is not None:
            found.append(_Wanted(method.ratio, control.axis, control.name, "refitted", own | dict(control.refit)))
    return found


def _has(name: str, model: Model) -> bool:
    return name in registry.methods and bool(model.fitted(name))


def _pairs(run: Run, name: str, methods: Sequence[Method], wanted: Sequence[_Wanted]) -> list[Pair]:
    """What is compared with what, among the points that ran."""
    by_settings = {(r.method, repr(sorted(r.settings.items()))): r for r in run.records if r.usable}

    def of(settings: dict[str, Any], method: str = name) -> Any:
        return by_settings.get((method, repr(sorted(settings.items()))))

    own = {method.ratio: of(_given(method)) for method in methods}
    pairs = [Pair(own[one.ratio], of(one.settings), one.axis, one.control, one.form) for one in wanted]
    dense = next((r for r in run.records if r.method == DENSE and r.usable), None)
    tuned = next((r for r in run.records if r.method == TRAINING and r.usable), None)
    if dense is not None and tuned is not None:
        pairs.append(Pair(tuned, dense, "training", DENSE, "refitted"))
    return [pair for pair in pairs if pair.method is not None and pair.control_record is not None]
