"""From what a user asked for to methods, tasks and metrics with their settings."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness import modes, text
from harness.compose import method_class
from harness.errors import UserError, unknown
from harness.method import Method
from harness.metric import Metric, MetricSettings
from harness.registry import metrics as registered_metrics
from harness.registry import tasks
from harness.sweep import QUICK, MethodSpec, Sweep, one_line, validated
from harness.task import Task, TaskSettings


def build(values: Mapping[str, Any], source: str = "") -> Sweep:
    """Validate, and fill in the task's defaults. `quick` puts `QUICK` below the values that are given. Raises
    UserError with one line that names the field, what it got and what was expected."""
    given = {name: value for name, value in values.items() if name != "quick"}
    sweep: Sweep = validated(Sweep, {**QUICK, **given} if values.get("quick") else given, source)
    if bool(sweep.match) != bool(sweep.budgets):
        raise UserError("a matched sweep needs both an axis and budgets, for instance --match latency=0.9,0.8")
    for mode in sweep.timed_in:
        modes.check(mode, sweep.device.partition(":")[0])
    for name in sweep.metric_settings:
        metric_settings_of(registered_metrics.get(name), sweep.metric_settings[name])
        if sweep.metrics is not None and name not in sweep.metrics:
            raise UserError(f"metric {name!r} has settings but is not among the metrics ({', '.join(sweep.metrics)})")
    task: type[Task] = tasks.get(sweep.task)
    return sweep.model_copy(
        update={"model": sweep.model or task.default_model, "ratios": sweep.ratios or task.default_ratios}
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """The fields of a sweep file. Raises UserError."""
    values = text.yaml_of(text.read(path, "config file"), f"config file {path}")
    if not isinstance(values, dict):
        raise UserError(f"config file {path} must hold keys and values, for instance `model: shapes`")
    for key in values:
        if key not in Sweep.model_fields:
            raise unknown(f"key in {path}", str(key), Sweep.model_fields)
    return values


def settings_of(spec: MethodSpec, ratios: tuple[float, ...]) -> list[Method]:
    """The method objects that a spec asks for: one per ratio. Raises UserError for an unknown name or setting."""
    if "ratio" in spec.settings:
        return [method_of(spec.name, spec.settings)]
    swept = method_class(spec.name).settings_for(spec.ratios if spec.ratios is not None else ratios)
    return [method_of(spec.name, {**one.model_dump(), **spec.settings}) for one in swept]


def method_of(name: str, given: Mapping[str, Any]) -> Method:
    """A method with these settings, and its own defaults for the others. Raises UserError for an unknown name or
    setting."""
    cls = method_class(name)
    try:
        return cls(cls.Settings.model_validate(dict(given)))
    except ValidationError as error:
        raise UserError(f"method {name!r}: {one_line(error, cls.Settings)}") from error


def task_settings_of(task: type[Task], given: Mapping[str, Any], swept: Mapping[str, Any]) -> list[TaskSettings]:
    """Every combination of the settings' values: those given, else those that the task sweeps. Raises UserError."""
    for name in given:
        if name not in task.Settings.model_fields:
            raise unknown(f"setting of task {task.name!r}", name, task.Settings.model_fields)
        if isinstance(given[name], (list, tuple)) and not given[name]:
            raise UserError(f"task {task.name!r}: {name} has no value; give one, or leave it out")
    axes = {**swept, **given}
    names = [name for name in task.Settings.model_fields if name in axes]
    values = [v if isinstance(v, (list, tuple)) else (v,) for v in (axes[name] for name in names)]
    try:
        chosen = [task.Settings.model_validate(dict(zip(names, each, strict=True))) for each in product(*values)]
    except ValidationError as error:
        raise UserError(f"task {task.name!r}: {one_line(error, task.Settings)}") from error
    return list(dict.fromkeys(chosen))


def metric_settings_of(metric: type[Metric], given: Mapping[str, Any]) -> MetricSettings:
    """A metric's settings. Raises UserError for an unknown one or a value that is no good."""
    for name in given:
        if name not in metric.Settings.model_fields:
            raise unknown(f"setting of metric {metric.name!r}", str(name), metric.Settings.model_fields)
    try:
        return metric.Settings.model_validate(dict(given))
    except ValidationError as error:
        raise UserError(f"metric {metric.name!r}: {one_line(error, metric.Settings)}") from error
