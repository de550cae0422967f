"""A sweep as the user wrote it: from the command line or a YAML file, validated in one place."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from harness.compose import method_class
from harness.errors import UserError, unknown
from harness.method import Method, MethodSettings
from harness.metric import Metric, MetricSettings
from harness.registry import methods as registered
from harness.registry import metrics as registered_metrics
from harness.registry import tasks
from harness.task import Task, TaskSettings

DENSE = "dense"


class MethodSpec(BaseModel):
    """A method by name, with settings of its own. `ratios` replaces the sweep's ratios for this method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)
    ratios: tuple[float, ...] | None = None


class Asked(BaseModel):
    """What every command that measures methods takes. Every default stands here or in its heirs and nowhere else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    methods: tuple[MethodSpec, ...] = (MethodSpec(name="diffcr"), MethodSpec(name="tome"))
    model: str = Field("", description="zoo model or pipeline folder; empty: the task's own default")
    ratios: tuple[float, ...] = Field((), description="compression ratios; none: the task's own default")
    rounds: int = Field(6, ge=2, description="rounds of the interleaved latency measurement")
    variant: str | None = Field(None, description="variant of the weights, for instance fp16")
    revision: str | None = Field(None, description="branch, tag or commit of a model on the hub")
    device: str = "cpu"
    dtype: str = "float32"
    adapters: tuple[Path, ...] = ()

    @field_validator("methods", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """Accept "a,b", ["a", {"name": "b", "around": "mlp"}]: unknown keys beside a name are settings; "all" stands
        for every registered method."""
        items = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        out = []
        for item in (one for some in items for one in (sorted(registered) if some == "all" else (some,))):
            if isinstance(item, str):
                item = {"name": item}
            if isinstance(item, dict):
                own = {k: v for k, v in item.items() if k in MethodSpec.model_fields}
                rest = {k: v for k, v in item.items() if k not in MethodSpec.model_fields}
                item = own | {"settings": {**own.get("settings", {}), **rest}}
            out.append(item)
        return out

    @field_validator("ratios")
    @classmethod
    def _ratios(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        for ratio in value:
            if not 0 <= ratio <= 0.9:
                raise ValueError(f"a compression ratio must lie in [0, 0.9], got {ratio:g} (0.2 means 20 %)")
        return value


class Sweep(Asked):
    """What to run. None means the model's own default."""

    task: str = "text-to-image"
    task_settings: dict[str, Any] = Field(default_factory=dict, description="a value or a list of values by setting")
    cases: int = Field(64, ge=2, le=1_000_000)
    split: Literal["evaluation", "calibration"] = Field(
        "evaluation", description="calibration: cases that no evaluation of this many sees, to choose settings on"
    )
    steps: int | None = Field(None, ge=1, le=1000)
    guidance: float | None = Field(None, ge=0)
    batch: int = Field(16, ge=1)
    prompts: Path | None = None
    data: Path | None = Field(None, description="folder of the user's own cases, for tasks that take one")
    metrics: tuple[str, ...] | None = Field(None, description="none: all that apply, with their weights at hand")
    metric_settings: dict[str, dict[str, Any]] = Field(default_factory=dict, description="settings by metric")
    match: Literal["latency", "gmacs"] | None = Field(None, description="tune every method to budgets of this cost")
    budgets: tuple[float, ...] = Field((), description="costs relative to dense; each tunes every method anew")

    @field_validator("metrics", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Accept "a,b" as well as a list."""
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("budgets")
    @classmethod
    def _budgets(cls, value: Any) -> Any:
        for budget in value:
            if not 0 < budget < 1:
                raise ValueError(f"a budget is a share of dense's cost in (0, 1), got {budget:g}")
        return value

    def canonical(self) -> str:
        return json.dumps(self.model_dump(mode="json"), sort_keys=True)

    def digest(self) -> str:
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    def run_name(self) -> str:
        """A folder name that no other configuration has."""
        words = re.sub(r"[^a-z0-9]+", "-", f"{self.task}-{Path(self.model).name}".lower()).strip("-")
        return f"{words}-{self.digest()[:8]}"


def build(values: dict[str, Any], source: str = "") -> Sweep:
    """Validate, and fill in the task's defaults. Raises UserError with one line that names the field, what it got and
    what was expected."""
    try:
        sweep = Sweep.model_validate(values)
    except ValidationError as error:
        raise UserError(one_line(error, Sweep, source)) from error
    if bool(sweep.match) != bool(sweep.budgets):
        raise UserError("a matched sweep needs both an axis and budgets, for instance --match latency=0.9,0.8")
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
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"config file {path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UserError(f"config file {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"config file {path} must hold keys and values, for instance `model: shapes`")
    for key in values:
        if key not in Sweep.model_fields:
            raise unknown(f"key in {path}", str(key), Sweep.model_fields)
    return values


def settings_of(spec: MethodSpec, ratios: tuple[float, ...]) -> list[Method]:
    """The method objects that a spec asks for: one per ratio. Raises UserError for an unknown name or setting."""
    cls = method_class(spec.name)
    try:
        if "ratio" in spec.settings:
            swept: list[MethodSettings] = [cls.Settings()]
        else:
            swept = cls.settings_for(spec.ratios if spec.ratios is not None else ratios)
        chosen = [cls.Settings.model_validate({**one.model_dump(), **spec.settings}) for one in swept]
    except ValidationError as error:
        raise UserError(f"method {spec.name!r}: {one_line(error, cls.Settings)}") from error
    return [cls(one) for one in chosen]


def task_settings_of(task: type[Task], given: Mapping[str, Any], swept: Mapping[str, Any]) -> list[TaskSettings]:
    """Every combination of the settings' values: those given, else those that the task sweeps. Raises UserError."""
    for name in given:
        if name not in task.Settings.model_fields:
            raise unknown(f"setting of task {task.name!r}", name, task.Settings.model_fields)
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


def one_line(error: ValidationError, model: Any, source: str = "") -> str:
    """The first complaint of a validation, as one line that names the field, what was expected and what it got."""
    fields = getattr(model, "model_fields", None) or getattr(model, "__dataclass_fields__", {})
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    where = f"{source}: " if source else ""
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        near = difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"{where}unknown setting {name!r}: {hint}known: {', '.join(fields) or 'none'}"
    message = first["msg"].removeprefix("Value error, ")
    name = f"{name}: " if name else ""
    return f"{where}{name}{message}" + ("" if "got" in message else f", got {first['input']!r}")
