"""Options that several commands share, and how their values are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from harness import registry
from harness.errors import UserError

Plugins = Annotated[
    list[Path] | None, typer.Option("--plugin", help="Python file that registers more; may be repeated.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. [default: cpu]", show_default=False)]


def load_plugins(paths: list[Path] | None) -> None:
    for path in paths or []:
        registry.load_plugin(path)


def floats(name: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(f"{name} expects numbers separated by commas, got {text!r}") from error


def whole(name: str, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(f"{name} expects whole numbers separated by commas, got {text!r}") from error


def pair(text: str) -> tuple[str, Any]:
    import yaml

    name, found, value = text.partition("=")
    if not found or not name:
        raise UserError(f"--set expects NAME=VALUE, got {text!r}")
    return name.strip(), yaml.safe_load(value)


def axes(texts: list[str]) -> dict[str, list[Any]]:
    """NAME=VALUE[,VALUE...] as lists by name."""
    import yaml

    split = (pair(text)[0] for text in texts)
    values = (text.partition("=")[2].split(",") for text in texts)
    return {name: [yaml.safe_load(value) for value in some] for name, some in zip(split, values, strict=True)}


def by_metric(settings: dict[str, dict[str, Any]], texts: list[str]) -> dict[str, dict[str, Any]]:
    """The settings by metric, with METRIC[,METRIC...].NAME=VALUE put over them. Values stay text, as folders and hub
    names are; each metric's own settings turn them into numbers where they hold such."""
    out = {name: dict(values) for name, values in settings.items()}
    for text in texts:
        name, found, value = text.partition("=")
        names, dot, setting = name.rpartition(".")
        if not (found and dot and names and setting):
            raise UserError(f"--metric-set expects METRIC.NAME=VALUE, got {text!r}")
        for metric in names.split(","):
            out.setdefault(metric.strip(), {})[setting.strip()] = value
    return out


def validated(kind: Any, values: dict[str, Any]) -> Any:
    from pydantic import TypeAdapter, ValidationError

    from harness.config import one_line

    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise UserError(one_line(error, kind)) from error


def with_settings(sweep: Any, texts: list[str]) -> Any:
    """The sweep with METHOD.NAME=VALUE applied to every entry of that method."""
    specs = list(sweep.methods)
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
    return sweep.model_copy(update={"methods": tuple(specs)})
