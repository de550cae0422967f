"""From a validated sweep to operating points with keys."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import harness
from harness import attach, config, registry
from harness.compose import method_class
from harness.config import DENSE, MethodSpec, Sweep
from harness.errors import UserError, unknown
from harness.measure import environment
from harness.method import Method
from harness.metric import Metric
from harness.models import Model, load
from harness.spec import Case, State
from harness.task import Task, TaskSettings
from results.analysis.point_names import point_names

_ROOT = Path(harness.__file__).resolve().parent.parent
PACKAGES = tuple(_ROOT / name for name in ("harness", "methods", "tasks", "results"))


@dataclass(frozen=True)
class Point:
    """One operating point: a method with its settings, everything else being the plan's. label: its name for people,
    which tells it apart from the plan's other points."""

    method: Method
    state: State | None
    key: str
    facts: Mapping[str, Any]
    label: str = ""


@dataclass(frozen=True)
class Plan:
    """The points of a sweep that share a task's settings, dense first, and what else they share."""

    sweep: Sweep
    model: Model
    task: Task
    cases: tuple[Case, ...]
    metrics: tuple[Metric, ...]
    points: tuple[Point, ...]
    fingerprint: dict[str, str]
    environment: dict[str, str]


def make(sweep: Sweep) -> tuple[Plan, ...]:
    """Resolve the model, every name and adapter: one plan for each of the task's settings.

    Raises UserError before anything runs or is written.
    """
    specs = [spec for spec in sweep.methods if spec.name != DENSE]
    for spec in specs:
        method_class(spec.name.partition("@")[0])
    task_class = registry.tasks.get(sweep.task)
    metric_classes = [registry.metrics.get(name) for name in (sweep.metrics or registry.metrics)]

    model = load(
        sweep.model, device=sweep.device, dtype=sweep.dtype, adapters=sweep.adapters, variant=sweep.variant,
        revision=sweep.revision,
    )  # fmt: skip
    methods = [method for spec in [MethodSpec(name=DENSE), *specs] for method in _methods(spec, sweep.ratios, model)]
    reference = task_class.reference(sweep.data)
    metrics = [made for cls in metric_classes if (made := _metric(cls, sweep, model, reference)) is not None]
    chosen = config.task_settings_of(
        task_class, sweep.task_settings, task_class.swept(model, own=sweep.data is not None)
    )
    plans = []
    for settings in chosen:
        bare = task_class.dense_alone(model, sweep.task_settings, settings)
        some = [method for method in methods if method.name == DENSE] if bare else methods
        plans.append(_plan(sweep, model, task_class, settings, some, tuple(metrics)))
    return _labelled(plans)


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
    task = task_class(model, steps=steps, guidance=guidance, settings=settings)
    own = (sweep.prompts, sweep.data)
    if sweep.split == "evaluation":
        cases = task.cases(sweep.cases, *own)
    else:
        cases = task.calibration(sweep.cases, sweep.cases, *own)
    facts = environment.describe(model.device)
    prints = {
        "code": environment.code_digest(PACKAGES),
        "weights": model.digest,
        "cases": _sha([(case.prompt, case.seed, case.digest) for case in cases]),
        "split": sweep.split,
        "sampler": f"{model.scheduler} {steps} steps, guidance {guidance:g}",
        "batch": str(sweep.batch),
        **{name: facts[name] for name in ("torch", "diffusers", "clean-fid", "device")},
    }
    for metric in metrics:
        prints |= metric.fingerprint()
    shared = {
        "task": sweep.task, "task_settings": settings.model_dump(mode="json"), "model": sweep.model,
        "dtype": sweep.dtype, "rounds": sweep.rounds, **prints,
    }  # fmt: skip
    points: dict[str, Point] = {}
    for method in methods:
        if steps < method.least_steps:
            raise UserError(
                f"method {method.name!r} needs at least {method.least_steps} sampling steps, since it reuses earlier "
                f"ones; got {steps}"
            )
        made = point(method, model, shared)
        points.setdefault(made.key, made)
    return Plan(sweep, model, task, cases, metrics, tuple(points.values()), prints, facts)


def _metric(cls: type[Metric], sweep: Sweep, model: Model, reference: Path | None) -> Metric | None:
    """A metric that can judge this model's images with what is at hand, or None. Raises UserError instead where the
    user asked for it by name or by a setting."""
    given = sweep.metric_settings.get(cls.name, {})
    wanted = bool(given) or sweep.metrics is not None
    if not cls.applies(model):
        if wanted:
            raise UserError(
                f"metric {cls.name!r} cannot judge images of model {sweep.model!r}; leave it out of --metrics"
            )
        return None
    own = cls.Settings is not Metric.Settings
    made = cls(model, config.metric_settings_of(cls, given), reference) if own else cls(model)
    try:
        made.check()
    except UserError as error:
        if wanted:
            raise UserError(f"metric {cls.name!r}: {error}") from error
        return None
    return made


def _labelled(plans: Sequence[Plan]) -> tuple[Plan, ...]:
    named = [
        SimpleNamespace(
            key=p.key, method=p.method.name, settings=p.facts["settings"], ratio=p.method.ratio,
            task_settings=p.facts["task_settings"],
        )
        for made in plans for p in made.points
    ]  # fmt: skip
    labels = point_names(named)
    return tuple(
        replace(made, points=tuple(replace(point, label=labels[point.key]) for point in made.points)) for made in plans
    )


def _methods(spec: MethodSpec, ratios: tuple[float, ...], model: Model) -> list[Method]:
    """The method objects of a spec. `name@trajectory` sweeps every ratio that the model has a fitted adapter for."""
    name, _, variant = spec.name.partition("@")
    if not variant:
        return config.settings_of(spec, ratios)
    if variant != "trajectory":
        raise unknown("variant", f"{name}@{variant}", [f"{name}@trajectory"])
    spec = spec.model_copy(update={"name": name, "ratios": None})
    wanted = config.settings_of(spec, (0.1,))[0].settings.model_dump(mode="json") | {"ratio": None}
    along = sorted(one["ratio"] for one in model.fitted(name) if one | {"ratio": None} == wanted)
    if not along:
        raise UserError(f"method {name!r} has no fitted adapters for model {model.name!r}; fit some with "
                        f"`python -m harness fit {name} --model {model.name}`")  # fmt: skip
    return config.settings_of(spec, tuple(along))


def point(method: Method, model: Model, shared: Mapping[str, Any]) -> Point:
    """An operating point. shared: what a plan's points have in common. Raises UserError for a method that the model
    cannot run or has no adapter for."""
    if refusal := attach.check(method, model.family):
        served = [name for name in registry.backbones if not attach.check(method, registry.backbones.get(name))]
        raise UserError(
            f"method {method.name!r} cannot run on model {model.name!r}: {refusal}; backbones that it serves: "
            f"{', '.join(served) or 'none'}"
        )
    state, digest = state_of(method, model)
    sources = [inspect.getsourcefile(type(one)) for one in method.members()]
    facts = {
        "method": method.name,
        "settings": method.settings.model_dump(mode="json"),
        "adapter": digest,
        "method_code": "".join(hashlib.sha256(Path(s).read_bytes()).hexdigest() for s in sources if s),
        **shared,
    }
    return Point(method, state, _sha(facts), facts)


def state_of(method: Method, model: Model) -> tuple[State | None, str]:
    """The adapter states that a method, or the parts of a composition, run with, and their digests. Raises UserError
    for a missing one."""
    found = {one.name: _adapter(one, model) for one in method.members() if one.needs_state and one.ratio != 0}
    states = {name: state for name, (state, _) in found.items()}
    state = states.get(method.name) or (State(parts=states) if states else None)
    return state, "".join(digest for _, digest in found.values())


def _adapter(method: Method, model: Model) -> tuple[State, str]:
    """Its adapter state and digest. Raises UserError, with the command that fits it."""
    try:
        return model.adapter(method.adapter())
    except UserError as error:
        ratio = "" if method.ratio is None else f" --ratio {method.ratio:g}"
        raise UserError(
            f"{error}; fit one with `python -m harness fit {method.name} --model {model.name}{ratio}`"
        ) from error


def _sha(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
