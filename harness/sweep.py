"""What a user asks for, validated: a sweep (`run`) or a profile. Every option and every default stands here once; the
command line and the Python API are made from these models. Imports no torch, so that `--help` answers at once.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from harness.errors import UserError
from harness.registry import methods as registered

DENSE = "dense"
META = "meta"
_LARGEST = 16_384  # images per batch, or side of the latents
Mode = Literal["eager", "compile", "graph", "compile+graph"]
"""How a denoiser step is executed, see `harness.modes`."""
Axis = Literal["gmacs", "latency", "latency[compile]", "latency[graph]", "latency[compile+graph]"]
"""What methods can be tuned to."""
QUICK: dict[str, Any] = {"cases": 16, "ratios": (0.2,), "rounds": 6}
"""What `--quick` sets, where nothing else is given."""


class MethodSpec(BaseModel):
    """A method by name, with settings of its own. `ratios` replaces the sweep's ratios for this method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)
    ratios: tuple[float, ...] | None = None


class MeasurementConfig(BaseModel):
    """What every command that measures methods takes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    methods: tuple[MethodSpec, ...] = Field(
        (MethodSpec(name="diffcr"), MethodSpec(name="tome")), description="methods, comma-separated; a+b; all"
    )
    model: str = Field("", description="zoo model, pipeline folder or hub id; none: the task's own default")
    ratios: tuple[float, ...] = Field((), description="compression ratios; none: the task's own default")
    rounds: int = Field(
        12, ge=2, le=10_000,
        description="pairs of the interleaved latency measurement, in six blocks, which a multiple of six fills",
    )  # fmt: skip
    mode: tuple[Mode, ...] = Field(
        ("eager",), description="eager, compile (by blocks), graph (CUDA graphs), compile+graph; dense in the same one"
    )
    variant: str | None = Field(None, description="variant of the model's weights, for instance fp16")
    revision: str | None = Field(None, description="branch, tag or commit of a model on the hub")
    device: str = Field("cpu", description="cpu, cuda or cuda:N")
    dtype: str = Field("float32", description="float32, bfloat16 or float16")
    adapters: tuple[Path, ...] = Field((), description="folder of fitted adapters; may be repeated")

    @field_validator("methods", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """Accept "a,b", ["a", {"name": "b", "around": "mlp"}] and {"a": None, "b": {"around": "mlp"}}: unknown keys
        beside a name are settings; "all" stands for every registered method."""
        items = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        if isinstance(items, dict) and "name" not in items:
            items = [{name: settings} for name, settings in items.items()]
        elif not isinstance(items, (list, tuple)):
            items = [items]
        out = []
        for item in (one for some in items for one in (sorted(registered) if some == "all" else (some,))):
            if isinstance(item, str):
                item = {"name": item}
            if isinstance(item, dict) and "name" not in item and len(item) == 1:
                ((name, settings),) = item.items()
                item = {**_settings(name, settings), "name": name}
            if isinstance(item, dict):
                own = {k: v for k, v in item.items() if k in MethodSpec.model_fields}
                rest = {k: v for k, v in item.items() if k not in MethodSpec.model_fields}
                item = own | {"settings": {**_settings(own.get("name"), own.get("settings")), **rest}}
            out.append(item)
        return out

    @field_validator("mode", mode="before")
    @classmethod
    def _modes(cls, value: Any) -> Any:
        return tuple(dict.fromkeys(part.strip() for part in value.split(","))) if isinstance(value, str) else value

    @field_validator("ratios", mode="before")
    @classmethod
    def _ratio_text(cls, value: Any) -> Any:
        return _numbers(value, float, "numbers")

    @field_validator("ratios")
    @classmethod
    def _ratios(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        for ratio in value:
            if not 0 <= ratio <= 0.9:
                raise ValueError(f"a compression ratio must lie in [0, 0.9], got {ratio:g} (0.2 means 20 %)")
        return tuple(dict.fromkeys(round(ratio, 9) for ratio in value))  # 0.1 + 0.2 is 0.3

    @field_validator("adapters", mode="before")
    @classmethod
    def _folders(cls, value: Any) -> Any:
        return (value,) if isinstance(value, (str, Path)) else value


class Sweep(MeasurementConfig):
    """What to run. None means the model's own default."""

    task: str = Field("text-to-image", description="text-to-image, class-conditional or inpainting")
    task_settings: dict[str, Any] = Field(default_factory=dict, description="a value or a list of values by setting")
    cases: int = Field(64, ge=2, le=1_000_000, description="images per point")
    seed: int = Field(0, ge=0, le=1_000_000, description="seed of the initial noise: another one draws all images anew")
    split: Literal["evaluation", "calibration"] = Field(
        "evaluation", description="evaluation, or calibration: cases apart, to choose settings on"
    )
    steps: int | None = Field(None, ge=1, le=1000, description="sampler steps; none: the model's own")
    guidance: float | None = Field(None, ge=0, description="CFG scale; none: the model's own")
    batch: int = Field(16, ge=1, le=100_000, description="images per batch")
    prompts: Path | None = Field(
        None, description="text file with one prompt (or class) per line, or MS-COCO captions as JSON"
    )
    data: Path | None = Field(
        None, description="folder with metadata.jsonl: images and captions; for inpainting, masks too"
    )
    metrics: tuple[str, ...] | None = Field(
        None, description="metrics, comma-separated; none: all that apply and whose weights are here"
    )
    metric_settings: dict[str, dict[str, Any]] = Field(default_factory=dict, description="settings by metric")
    mode: tuple[Mode, ...] = Field(
        ("eager",),
        description="how images are executed while latency is measured, beside eager: compile (by blocks), graph (CUDA "
        "graphs), compile+graph; dense in the same one",
    )
    match: Axis | None = Field(
        None,
        description="tune every method to costs relative to dense: latency=0.9,0.8 or gmacs=0.8, or in a mode of "
        "execution, which is measured then: latency[compile]=0.8",
    )
    budgets: tuple[float, ...] = Field((), description="costs relative to dense; each tunes every method anew")

    @model_validator(mode="before")
    @classmethod
    def _match_text(cls, values: Any) -> Any:
        """Accept match="gmacs=0.8,0.7" for match and budgets."""
        if isinstance(values, dict) and isinstance(text := values.get("match"), str) and "=" in text:
            axis, _, budgets = text.partition("=")
            return {**values, "match": axis.strip(), "budgets": budgets}
        return values

    @field_validator("metrics", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Accept "a,b" as well as a list."""
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("budgets", mode="before")
    @classmethod
    def _budget_text(cls, value: Any) -> Any:
        return _numbers(value, float, "numbers")

    @field_validator("budgets")
    @classmethod
    def _budgets(cls, value: Any) -> Any:
        for budget in value:
            if not 0 < budget < 1:
                raise ValueError(f"a budget is a share of dense's cost in (0, 1), got {budget:g}")
        return value

    @property
    def matched_in(self) -> Mode:
        """The mode of execution that methods are tuned in."""
        named = (self.match or "").partition("[")[2].rstrip("]")
        return next((mode for mode in get_args(Mode) if mode == named), "eager")

    @property
    def timed_in(self) -> tuple[Mode, ...]:
        """The modes that latency is measured in."""
        return tuple(mode for mode in get_args(Mode) if mode in (*self.mode, self.matched_in))

    def shared(self) -> dict[str, Any]:
        """What all points of a run folder share, as JSON: everything but which points there are, and what else they are
        timed in."""
        which = {"methods", "ratios", "task_settings", "match", "budgets", "adapters", "mode"}
        return {"kind": "images", **self.model_dump(mode="json", exclude=which)}

    def run_name(self) -> str:
        """A folder name that no other configuration has, modes apart, which are added to what is there."""
        asked = self.model_dump(mode="json", exclude={"mode"})
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        return f"{_words(f'{self.task}-{Path(self.model).name}')}-{digest[:8]}"


class Profile(MeasurementConfig):
    """Methods on one denoiser step. None means the model's own default."""

    methods: tuple[MethodSpec, ...] = Field(
        tuple(MethodSpec(name=name) for name in ("uniform", "tome", "diffcr")),
        description="methods, comma-separated; a+b; all",
    )
    model: str = Field(
        "random:pixart-sigma-512",
        description="random:NAME (a true architecture, random weights), a zoo model or a pipeline folder",
    )
    device: str = Field("cpu", description="cpu, cuda, cuda:N, or meta, which counts alone")
    ratios: tuple[float, ...] = Field((0.1, 0.2, 0.3), description="compression ratios")
    batch: tuple[int, ...] = Field((1,), description="images per batch; every one is measured")
    size: tuple[int, ...] = Field((), description="sides of the latents; none: the configured one")
    text_tokens: int | None = Field(None, ge=0, le=100_000, description="text tokens; none: the model's own")
    mask_tokens: int | None = Field(
        None, ge=1, le=10_000_000, description="tokens to generate, for lazydiffusion; none: all of them"
    )
    ratio_table: Path | None = Field(
        None, description="CSV of layer, region, ratio, for methods whose ratios are learned (diffcr)"
    )

    @field_validator("batch", "size", mode="before")
    @classmethod
    def _whole_text(cls, value: Any) -> Any:
        return _numbers(value, int, "whole numbers")

    @field_validator("batch", "size")
    @classmethod
    def _positive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        for number in value:
            if not 1 <= number <= _LARGEST:
                raise ValueError(f"expected whole numbers from 1 to {_LARGEST}, got {number}")
        return tuple(dict.fromkeys(value))

    def shared(self) -> dict[str, Any]:
        """What all points of a run folder share, as JSON: everything but which points there are."""
        which = {"methods", "ratios", "batch", "size", "mode", "ratio_table", "adapters"}
        return {"kind": "step", **self.model_dump(mode="json", exclude=which)}

    def run_name(self) -> str:
        """A folder name that no other configuration has."""
        digest = hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()
        return f"profile-{_words(Path(self.model).name)}-{digest[:8]}"


def _settings(name: object, value: object) -> dict[Any, Any]:
    if value is None or isinstance(value, dict):
        return value or {}
    raise ValueError(f"the settings of method {name!r} must be names and values, got {value!r}")


def validated(model: type[Any], values: Mapping[str, Any], source: str = "") -> Any:
    """An object of a pydantic model. Raises UserError with one line that names the field, what it got and what was
    expected."""
    try:
        return model.model_validate(dict(values) if isinstance(values, Mapping) else values)
    except ValidationError as error:
        raise UserError(one_line(error, model, source)) from error


_PLAIN = {
    "tuple_type": "expected a list", "list_type": "expected a list", "dict_type": "expected names with values",
    "model_type": "expected names with values", "model_attributes_type": "expected names with values",
    "dataclass_type": "expected a name, or names with values",
}  # fmt: skip
"""What pydantic says in terms of Python, for one who writes YAML."""


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
    message = _PLAIN.get(first["type"], message)
    name = f"{name}: " if name else ""
    return f"{where}{name}{message}" + ("" if "got" in message else f", got {reprlib.repr(first['input'])}")


def _numbers(value: Any, kind: type[Any], what: str) -> Any:
    """Accept "0.1,0.2" and a single number as well as a list."""
    if isinstance(value, str):
        try:
            return tuple(kind(part) for part in value.split(","))
        except ValueError:
            raise ValueError(f"expects {what} separated by commas, got {value!r}") from None
    return (value,) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _words(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
