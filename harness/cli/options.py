"""Options: those of a pydantic model as a command's own, those that several commands share, and how texts are read."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from harness import registry
from harness.cli.grouped import CONTROL, METHODS, group_of
from harness.errors import UserError, unknown
from harness.text import yaml_of
from results.files import check_writable

Command = Callable[..., Any]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="Python file that registers more; may be repeated.", rich_help_panel=METHODS),
]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of every point that fails.", rich_help_panel=CONTROL)
]
Isolate = Annotated[
    bool, typer.Option("--isolate", help="Run every point in a process of its own.", rich_help_panel=CONTROL)
]
PointTimeout = Annotated[
    float | None,
    typer.Option(
        min=1e-3, metavar="SECONDS", help="Give a point up after so long; implies --isolate. [default: no limit]",
        show_default=False, rich_help_panel=CONTROL,
    ),
]  # fmt: skip
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. [default: cpu]", show_default=False)]


def options_of(model: type[BaseModel], skip: Collection[str] = ()) -> Callable[[Command], Command]:
    """Gives a command an option for every field of the model, with the model's own description and default; what the
    user sets reaches the command as the dictionary `given`, its first argument."""
    fields = {name: field for name, field in model.model_fields.items() if name not in skip}

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def wrapper(**values: Any) -> Any:
            given = {name: value for name in fields if (value := values.pop(name)) not in (None, [], ())}
            return command(given, **values)

        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        shared = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(name, field))
            for name, field in fields.items()
        ]
        parameters = [*shared, *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own)]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {one.name: one.annotation for one in parameters}
        return wrapper

    return decorate


def _annotation(name: str, field: FieldInfo) -> Any:
    kinds = [one for one in (get_args(field.annotation) or (field.annotation,)) if one is not NoneType]
    plain = kinds[0] if kinds[0] in (int, float, Path) and field.annotation is not tuple else str
    if get_args(field.annotation)[:1] == (Path,) and get_args(field.annotation)[1:] == (Ellipsis,):
        kind: Any = list[Path] | None
    elif get_args(field.annotation)[1:] == (Ellipsis,):
        kind = str | None  # numbers separated by commas
    else:
        kind = plain | None
    shown = _default(field.get_default(call_default_factory=True))
    text = (field.description or "") + (f" [default: {shown}]" if shown else "")
    return Annotated[kind, typer.Option(help=text, show_default=False, rich_help_panel=group_of(name))]


def _default(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(str(getattr(one, "name", one)) for one in value)
    return "" if value is None or value == {} else str(value)


def listed(text: str) -> list[str]:
    """What stands between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def whole_numbers(text: str, option: str) -> list[int]:
    """Whole numbers between commas. Raises UserError."""
    parts = listed(text)
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"{option} expects whole numbers between commas, for instance 0,1,2, got {text!r}")
    return [int(part) for part in parts]


def writable(*folders: Path) -> None:
    """See that a command can write to its folders before it begins, and leave none behind that it may never fill.
    Raises UserError."""
    for folder in folders:
        try:
            check_writable(next(place for place in (folder, *folder.absolute().parents) if place.exists()))
        except OSError as error:
            where = error.filename or folder
            raise UserError(
                f"nothing can be written to {folder}: {where}: {error.strerror}; give another one"
            ) from error


def load_plugins(paths: list[Path] | None) -> None:
    for path in paths or []:
        registry.load_plugin(path)


def pair(text: str) -> tuple[str, Any]:
    """NAME=VALUE of a --set, the value in YAML. Raises UserError."""
    name, found, value = text.partition("=")
    if not found or not name.strip():
        raise UserError(f"--set expects NAME=VALUE, got {text!r}")
    return name.strip(), yaml_of(value, f"the value of --set {text!r}")


def axes(texts: list[str]) -> dict[str, list[Any]]:
    """NAME=VALUE[,VALUE...] as lists by name."""
    out = {}
    for text in texts:
        name, found, values = text.partition("=")
        if not found or not name.strip():
            raise UserError(f"--task-set expects NAME=VALUE[,VALUE...], got {text!r}")
        out[name.strip()] = [yaml_of(value, f"{value!r} in --task-set {text!r}") for value in values.split(",")]
    return out


def by_metric(texts: list[str]) -> dict[str, dict[str, Any]]:
    """METRIC[,METRIC...].NAME=VALUE as settings by metric. Values stay text, as folders and hub names are; each
    metric's own settings turn them into numbers where they hold such."""
    out: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, found, value = text.partition("=")
        names, dot, setting = name.rpartition(".")
        if not (found and dot and names and setting):
            raise UserError(f"--metric-set expects METRIC.NAME=VALUE, got {text!r}")
        for metric in names.split(","):
            out.setdefault(metric.strip(), {})[setting.strip()] = value
    return out


def validated(kind: Any, values: dict[str, Any]) -> Any:
    """An object of a pydantic model or dataclass. Raises UserError with one line."""
    from pydantic import TypeAdapter, ValidationError

    from harness.sweep import one_line

    for name in values:
        if is_dataclass(kind) and name not in kind.__dataclass_fields__:  # pydantic would pass over it
            raise unknown("setting", name, kind.__dataclass_fields__)
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise UserError(one_line(error, kind)) from error


def with_settings(request: Any, texts: list[str]) -> Any:
    """A sweep or profile with METHOD.NAME=VALUE applied to every entry of that method."""
    specs = list(request.methods)
    names = dict.fromkeys(spec.name for spec in specs)
    for text in texts:
        name, value = pair(text)
        method, dot, setting = name.partition(".")
        if not dot or method not in names:
            raise UserError(
                f"--set expects METHOD.NAME=VALUE with a method of this sweep ({', '.join(names)}), got {text!r}"
            )
        specs = [
            spec.model_copy(update={"settings": {**spec.settings, setting: value}}) if spec.name == method else spec
            for spec in specs
        ]
    return request.model_copy(update={"methods": tuple(specs)})
