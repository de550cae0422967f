"""The adapter states that methods run with, and their digests."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import UserError
from harness.method import Method
from harness.models.model import Model
from harness.registry import plugin_of
from harness.spec import State

T = TypeVar("T")


def needing(method: Method) -> list[Method]:
    """The method, or the parts of a composition, that run with an adapter state."""
    return [one for one in method.members() if one.needs_state and one.ratio != 0]


def digest_of(method: Method, model: Model) -> str:
    """The digest of its adapter states, without reading their tensors; "" where it needs none. Raises UserError for a
    missing one, with the command that fits it."""
    return "".join(_told(one, model, model.adapter_digest) for one in needing(method))


def check(methods: Iterable[Method], model: Model) -> None:
    """Raises UserError where several adapters of these methods are missing, which names all of them. Whether they are
    damaged or of another model shows when they are read, and a single one is missed there, too."""
    known = set(model.adapter_files())
    lacking = {one.adapter(): one for method in methods for one in needing(method) if one.adapter() not in known}
    if len(lacking) > 1:
        fit = fit_command(next(iter(lacking.values())), model)
        raise UserError(
            f"model {model.name!r} has no adapters {', '.join(map(repr, lacking))}; fitted ones: "
            f"{', '.join(sorted(known)) or 'none'}; fit each as the first, with `{fit}`"
            + (", or all with `run --fit`" if model.brings_data else "")
            + "; `run --fit --dry-run` lists the commands"
        )


def state_of(method: Method, model: Model) -> State | None:
    """The adapter states that a method, or the parts of a composition, run with. Raises UserError as `digest_of`."""
    states = {one.name: _told(one, model, model.adapter) for one in needing(method)}
    return states.get(method.name) or (State(parts=states) if states else None)


def _told(method: Method, model: Model, read: Callable[[str], T]) -> T:
    try:
        return read(method.adapter())
    except UserError as error:
        raise UserError(f"{error}; fit one with `{fit_command(method, model)}`") from error


def as_fitted(method: Method) -> Method:
    """The method with the settings that its adapter was fitted for: those that one adapter serves all values of, which
    belong to a run, have their defaults."""
    cls, fitted = type(method), method
    for name, default in cls.Settings().model_dump().items():
        if name != "ratio":
            other = cls(fitted.settings.model_copy(update={name: default}))
            fitted = other if other.adapter() == method.adapter() else fitted
    return fitted


def run_command(method: Method, model: str, folder: Path) -> str:
    """The command that runs a method with an adapter in a folder."""
    command = ["python", "-m", "harness", "run", "--model", model, "--methods", method.name]
    if method.ratio is not None:
        command += ["--ratios", f"{method.ratio:g}"]
    for name, value in _named(method).items():
        command += ["--set", f"{method.name}.{name}={value}"]
    if (path := plugin_of(type(method))) is not None:
        command += ["--plugin", str(path)]
    return shlex.join([*command, "--adapters", str(folder)])


def _named(method: Method) -> dict[str, Any]:
    """The settings beside the ratio that tell its adapter from that of the defaults."""
    usual = type(method).Settings().model_dump(mode="json")
    own = as_fitted(method).settings.model_dump(mode="json")
    return {name: value for name, value in own.items() if name != "ratio" and value != usual[name]}


def fit_command(method: Method, model: Model) -> str:
    """The command that fits the adapter of these settings."""
    cls = type(method)
    if getattr(method.settings, "trajectory", False):  # left on the way to a higher ratio
        above = {"trajectory": False, "ratio": min(0.9, round((method.ratio or 0.0) + 0.1, 4))}
        method = cls(method.settings.model_copy(update=above))
    command = ["python", "-m", "harness", "fit", method.name, "--model", model.name]
    if method.ratio is not None:
        command += ["--ratio", f"{method.ratio:g}"]
    for name, value in _named(method).items():
        command += ["--set", f"{name}={value}"]
    if (path := plugin_of(cls)) is not None:
        command += ["--plugin", str(path)]
    if not model.brings_data:
        command += ["--data", "FOLDER"]
    return shlex.join(command)
