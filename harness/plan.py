"""From a validated sweep to workloads and operating points with keys."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from harness import attach, config, judges, measure, registry, versions
from harness.compose import method_class
from harness.engine import OpenWorkload
from harness.errors import UserError, unknown
from harness.kernels import routing
from harness.measure import environment
from harness.method import Method
from harness.metric import Metric
from harness.models import Model, adapters, load
from harness.spec import Case
from harness.sweep import DENSE, MethodSpec, Sweep
from harness.task import Task, TaskSettings
from harness.workload import Point, Workload, digest
from results.analysis.modes import EAGER
from results.analysis.point_names import point_names

_LOG = logging.getLogger(__name__)
_SEEDS_APART = 1_000_000  # more than a sweep has cases


@dataclass(frozen=True)
class Plan:
    """The points of a sweep that share a workload, dense first, and the workload, open."""

    opened: OpenWorkload
    points: tuple[Point, ...]


def load_model(sweep: Sweep, digest: str | None = None) -> Model:
    """The sweep's model. digest: of its weights, where it is known. Raises UserError."""
    for place in sweep.adapters:
        if place.is_file():
            raise UserError(f"--adapters takes folders, and {place} is a file: give {place.parent}")
    return load(
        sweep.model, device=sweep.device, dtype=sweep.dtype, adapters=sweep.adapters, variant=sweep.variant,
        revision=sweep.revision, digest=digest,
    )  # fmt: skip


def make(sweep: Sweep, model: Model | None = None) -> tuple[Plan, ...]:
    """Resolve every name and adapter: one plan for each of the task's settings. model: where it is loaded already.

    Raises UserError before anything runs or is written.
    """
    specs = [spec for spec in sweep.methods if spec.name != DENSE]
    for spec in specs:
        method_class(spec.name.partition("@")[0])
    task_class = registry.tasks.get(sweep.task)
    metric_classes = [registry.metrics.get(name) for name in (sweep.metrics or registry.metrics)]

    model = load_model(sweep) if model is None else model
    methods = [method for spec in [MethodSpec(name=DENSE), *specs] for method in _methods(spec, sweep.ratios, model)]
    reference = task_class.reference(sweep.data)
    found = (judges.chosen(cls, sweep, model, reference) for cls in metric_classes)
    metrics = tuple(metric for metric in found if metric is not None)
    chosen = config.task_settings_of(
        task_class, sweep.task_settings, task_class.swept(model, own=sweep.data is not None)
    )
    plans = []
    for settings in chosen:
        bare = task_class.dense_alone(model, sweep.task_settings, settings)
        some = [method for method in methods if method.name == DENSE] if bare else methods
        plans.append(_plan(sweep, model, task_class, settings, some, metrics))
    own, cases = sweep.prompts or sweep.data, len(plans[0].opened.cases)
    if cases < sweep.cases:
        _LOG.warning("%s holds %d cases: that many images per point instead of %d", own, cases, sweep.cases)
    return labelled(plans)


def _plan(
    sweep: Sweep,
    model: Model,
    task_class: type[Task],
    settings: TaskSettings,
    methods: Collection[Method],
    metrics: tuple[Metric, ...],
) -> Plan:
    defaults = model.facts.get("defaults", {})
    steps = sweep.steps if sweep.steps is not None else int(defaults.get("steps", 20))
    guidance = sweep.guidance if sweep.guidance is not None else float(defaults.get("guidance", 4.5))
    with registry.blamed("task", task_class):
        task = task_class(model, steps=steps, guidance=guidance, settings=settings)
    cases = _cases(task, sweep)
    metrics = tuple(metric for metric in metrics if judges.judges(metric, cases, sweep))
    workload = _workload(sweep, model, task, cases, metrics)
    opened = OpenWorkload(workload, model, task, cases, metrics)
    return Plan(opened, points(methods, model, workload))


def _workload(sweep: Sweep, model: Model, task: Task, cases: Sequence[Case], metrics: Sequence[Metric]) -> Workload:
    """What all points share, as the model, task, cases and metrics at hand have it."""
    facts = environment.describe(model.device)
    compares = {
        "cases": digest([(case.prompt, case.seed, case.digest) for case in cases]),
        "split": sweep.split,
        "sampler": f"{model.scheduler} {task.steps} steps, guidance {task.guidance:g}",
        "batch": str(sweep.batch),
        "measurement": str(measure.VERSION),
        "task": f"{sweep.task} {versions.of_part(type(task))}",
        "backbone": versions.of_part(model.family),
    }
    judged = {f"metric {metric.name}": versions.of_part(type(metric)) for metric in metrics}
    for metric in metrics:
        judged |= judges.fingerprint(metric)
    return Workload(
        request=sweep.shared() | {"methods": [], "adapters": [str(path) for path in sweep.adapters]},
        task_settings=task.settings.model_dump(mode="json"),
        weights=model.digest,
        steps=task.steps,
        guidance=task.guidance,
        depends_on={
            "model": sweep.model if not model.digest else "", "dtype": sweep.dtype, "rounds": str(sweep.rounds),
            "device": model.device.type, "hardware": facts["device"], "threads": facts["threads"],
            **routing.fingerprint(model.device),
        },
        compares=compares,
        judged=judged,
        environment=facts,
        modes=tuple(mode for mode in sweep.timed_in if mode != EAGER),
    )  # fmt: skip


def _cases(task: Task, sweep: Sweep) -> tuple[Case, ...]:
    own = (sweep.prompts, sweep.data)
    try:
        given = task.cases(sweep.cases, *own) if sweep.split == "evaluation" else task.calibration(
            sweep.cases, sweep.cases, *own
        )  # fmt: skip
        cases = tuple(given)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"task {sweep.task!r} failed to make its cases: {registry.where(error)}") from error
    if not all(isinstance(case, Case) for case in cases):
        raise UserError(f"task {sweep.task!r} made cases that are none; expected a tuple of Case objects")
    if len(cases) < 2:
        raise UserError(
            f"{sweep.prompts or sweep.data or f'task {sweep.task!r}'} holds {len(cases)} cases; a sweep takes two at "
            "least, to compare images"
        )
    if sweep.seed:
        cases = tuple(replace(case, seed=case.seed + sweep.seed * _SEEDS_APART) for case in cases)
    return cases


def reopen(sweep: Sweep, workload: Workload, model: Model | None = None) -> OpenWorkload:
    """A workload that was planned elsewhere, opened here; its digests are not computed again. model: where it is
    loaded already. Raises UserError."""
    task_class = registry.tasks.get(sweep.task)
    model = load_model(sweep, digest=workload.weights) if model is None else model
    settings = task_class.Settings.model_validate(workload.task_settings)
    task = task_class(model, steps=workload.steps, guidance=workload.guidance, settings=settings)
    reference = task_class.reference(sweep.data)
    names = [name.removeprefix("metric ") for name in workload.judged if name.startswith("metric ")]
    metrics = tuple(
        judges.metric_of(registry.metrics.get(name), sweep.metric_settings.get(name, {}), model, reference)
        for name in names
    )
    return OpenWorkload(workload, model, task, _cases(task, sweep), metrics)


def differences(sweep: Sweep, opened: OpenWorkload) -> list[str]:
    """What a workload that was planned elsewhere would rest on if it were planned here, and does not: other weights,
    cases, hardware, versions; a line for each."""
    here = _workload(sweep, opened.model, opened.task, opened.cases, opened.metrics)
    there, own = (
        {"weights": one.weights} | one.depends_on | one.compares | one.judged for one in (opened.workload, here)
    )
    return [
        f"{name}: {_short(there.get(name))} planned, {_short(own.get(name))} here"
        for name in sorted({*there, *own})
        if there.get(name) != own.get(name)
    ]


def _short(value: str | None) -> str:
    if value is None:
        return "nothing"
    return value[:12] if len(value) == 64 and " " not in value else value or "nothing"


def points(methods: Collection[Method], model: Model, workload: Workload) -> tuple[Point, ...]:
    """The operating points of these methods, dense first, each once. Raises UserError for a method that the model
    cannot run or has no adapter for."""
    found: dict[str, Point] = {}
    reference = ""
    adapters.check(methods, model)
    for method in methods:
        if workload.steps < method.least_steps:
            raise UserError(
                f"method {method.name!r} needs at least {method.least_steps} sampling steps, since it reuses earlier "
                f"ones; got {workload.steps}"
            )
        planned = point(method, model, workload, reference)
        reference = reference or planned.key
        found.setdefault(planned.key, planned)
    return tuple(found.values())


def point(method: Method, model: Model, workload: Workload, reference: str = "") -> Point:
    """One operating point. reference: key of the dense one. Raises UserError as `points` does."""
    if refusal := attach.check(method, model.family):
        served = [name for name in registry.backbones if not attach.check(method, registry.backbones.get(name))]
        raise UserError(
            f"method {method.name!r} cannot run on model {model.name!r}: {refusal}; backbones that it serves: "
            f"{', '.join(served) or 'none'}"
        )
    return Point(
        workload=workload, method=method.name, settings=method.settings.model_dump(mode="json"), ratio=method.ratio,
        strength=method.strength, adapter=adapters.digest_of(method, model),
        source="".join(versions.of_source(type(one)) for one in method.members()), reference=reference,
    )  # fmt: skip


def labelled(plans: Sequence[Plan]) -> tuple[Plan, ...]:
    """The plans with names for their points that tell them apart."""
    labels = point_names([point for plan in plans for point in plan.points])
    return tuple(
        replace(plan, points=tuple(replace(point, label=labels[point.key]) for point in plan.points)) for plan in plans
    )


def _methods(spec: MethodSpec, ratios: tuple[float, ...], model: Model) -> list[Method]:
    """The method objects of a spec. `name@trajectory` sweeps every ratio that the model has a fitted adapter for."""
    name, _, variant = spec.name.partition("@")
    if not variant:
        return config.settings_of(spec, ratios)
    if variant != "trajectory":
        raise unknown("variant", f"{name}@{variant}", [f"{name}@trajectory"])
    spec = spec.model_copy(update={"name": name, "ratios": None})
    files, known = model.adapter_files(), {one["ratio"] for one in model.fitted(name)}
    along = sorted(ratio for ratio in known if config.settings_of(spec, (ratio,))[0].adapter() in files)
    if not along:
        raise UserError(f"method {name!r} has no fitted adapters for model {model.name!r}; fit some with "
                        f"`python -m harness fit {name} --model {model.name}`")  # fmt: skip
    return config.settings_of(spec, tuple(along))
