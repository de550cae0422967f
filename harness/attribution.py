"""What each axis of a method is worth: the method beside controls of equal cost that destroy one axis each.

A control is an ordinary point: the method under another value of its setting `control`. Weights that were fitted adapt
to the choice that they saw, so there are two forms: *swapped* (the same weights) and *refitted* (a fit as long, with
the axis destroyed from its start).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import config, plan, registry, runner
from harness.compose import method_class
from harness.errors import UserError, unknown
from harness.executors.execute import Listener
from harness.method import Control, Method
from harness.models import Model, adapters
from harness.sweep import DENSE, MethodSpec, Sweep
from results.analysis.attribution import Pair
from results.record import Record
from results.run import Run
from results.tables import attribution as tables
from results.tables.formatting import compact_json

TRAINING = "dense-ft"
FEWEST = 8  # images, below which no p-value is given


@dataclass(frozen=True)
class _Wanted:
    """A control to run: of which point, axis, name, form, and which method with which settings it is."""

    of: Method
    axis: str
    control: str
    form: str
    method: str
    settings: dict[str, Any]


def attribute(
    method: str,
    *,
    ratio: float | Sequence[float] | str = 0.3,
    settings: Mapping[str, Any] | None = None,
    training_seeds: Sequence[int] = (),
    controls: Sequence[str] = (),
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
    """`harness.attribute("diffcr", ratio=0.3)`: what each axis of a method is worth. settings: of the method.
    training_seeds, controls, refit: see `run_attribution`. words: of `harness.run` (model, task, cases, adapters, ...).
    The table is `.attribution` of the run that it returns. Raises UserError as `run_attribution`."""
    given = {**words, "methods": [{"name": method, "settings": dict(settings or {})}], "ratios": ratio}
    sweep = runner.sweep_of(given, plugins=plugins)
    folder = run_folder(sweep, out, name)
    return run_attribution(
        sweep, folder, training_seeds=training_seeds, controls=controls, refit=refit, isolate=isolate,
        point_timeout=point_timeout, fresh=fresh, listener=listener,
    )  # fmt: skip


def run_folder(sweep: Sweep, out: str | Path | None, name: str | None) -> Path:
    """Where it goes by default: results/runs/attribute-..."""
    return runner.run_folder(sweep, out, name or (None if out is not None else f"attribute-{sweep.run_name()}"))


def run_attribution(
    sweep: Sweep,
    folder: Path,
    *,
    training_seeds: Sequence[int] = (),
    controls: Sequence[str] = (),
    refit: bool = False,
    isolate: bool = False,
    point_timeout: float | None = None,
    fresh: bool = False,
    listener: Listener | None = None,
) -> Run:
    """Run the sweep's one method and its controls, and write tables/attribution.csv, attribution.md and
    plots/attribution.png into the run folder. training_seeds: of the adapters, each a point with controls of its own,
    which are then taken together; the method's own seed alone by default. controls: the names of those to run, all by
    default. refit: also controls that were fitted as such, whose missing adapters are fitted first, into the sweep's
    first folder of adapters. Returns the run; its `attribution` is the table.

    Raises UserError for a method without axes, an unknown control, several methods, or budgets.
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
    seeds = [{"seed": seed} for seed in training_seeds] or [{}]
    variants = [spec.model_copy(update={"settings": {**spec.settings, **seed}}) for seed in seeds]
    methods = [method for variant in variants for method in config.settings_of(variant, sweep.ratios)]
    wanted = [one for method in methods for one in _wanted(method, model, controls, refit, hear)]
    tuned = [MethodSpec(name=TRAINING, settings=seed) for seed in seeds if _has(TRAINING, seed, model)]
    points = [MethodSpec(name=spec.name, settings=_given(method)) for method in methods]
    points += [MethodSpec(name=one.method, settings=one.settings) for one in wanted]
    asked = sweep.model_copy(update={"methods": (*points, *tuned)})
    run = runner.run_sweep(
        asked, folder, listener=hear, fit=refit, isolate=isolate, point_timeout=point_timeout, fresh=fresh
    )
    pairs = list(_pairs(run, spec.name, methods, wanted))
    run.attribution = tables.frame(run, pairs)
    tables.write(run, run.attribution, folder)
    return run


def _given(method: Method) -> dict[str, Any]:
    return method.settings.model_dump(mode="json")


def _wanted(method: Method, model: Model, names: Sequence[str], refit: bool, hear: Listener) -> list[_Wanted]:
    """The controls of one point that differ from it."""
    found: list[_Wanted] = []
    offered = method.controls(adapters.state_of(method, model))
    if strange := set(names) - {control.name for control in offered}:
        raise unknown(f"control of {method.name!r}", min(strange), [control.name for control in offered])
    for control in offered:
        if names and control.name not in names:
            continue
        if control.idle:
            hear.say(f"{method.name} {100 * (method.ratio or 0):g} %: {control.idle}")
            continue
        if control.settings is not None:
            settings = _given(method) | dict(control.settings)
            found.append(_Wanted(method, control.axis, control.name, "swapped", method.name, settings))
        if refit and control.refit is not None:
            found.append(_Wanted(method, control.axis, control.name, "refitted", *_refitted(method, control)))
    return found


def _refitted(method: Method, control: Control) -> tuple[str, dict[str, Any]]:
    """The method that is this control, fitted as such, and its settings."""
    assert control.refit is not None
    if not control.other:
        return method.name, _given(method) | dict(control.refit)
    given, cls = _given(method), method_class(control.other)
    shared = {name: given[name] for name in ("ratio", "seed") if name in given}
    return control.other, cls.Settings.model_validate(shared | dict(control.refit)).model_dump(mode="json")


def _has(name: str, seed: Mapping[str, Any], model: Model) -> bool:
    if name not in registry.methods:
        return False
    cls = method_class(name)
    try:
        return bool(adapters.digest_of(cls(cls.Settings.model_validate(seed)), model))
    except UserError:
        return False


def _pairs(run: Run, name: str, methods: Sequence[Method], wanted: Sequence[_Wanted]) -> Iterator[Pair]:
    """What is compared with what, among the points that ran."""
    usable = [record for record in run.records if record.usable]
    by_settings = {(r.method, compact_json(r.settings), compact_json(r.task_settings)): r for r in usable}
    tasks = dict.fromkeys(compact_json(record.task_settings) for record in usable)

    def of(method: str, settings: dict[str, Any], task: str) -> Record | None:
        return by_settings.get((method, compact_json(settings), task))

    for task in tasks:
        for one in wanted:
            own, control = of(name, _given(one.of), task), of(one.method, one.settings, task)
            if own is not None and control is not None:
                yield Pair(own, control, one.axis, one.control, one.form, _seed(own))
        dense = next((r for r in usable if r.method == DENSE and compact_json(r.task_settings) == task), None)
        for tuned in usable:
            if dense is not None and tuned.method == TRAINING and compact_json(tuned.task_settings) == task:
                yield Pair(tuned, dense, "training", DENSE, "refitted", _seed(tuned))


def _seed(record: Record) -> int:
    return int(record.settings.get("seed", 0))
