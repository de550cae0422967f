"""One registry for methods, tasks, metrics and backbones.

Built-in and third-party entries are found in the same way: through entry points (`harness.methods` and so on),
or by a decorator in a file given to `--plugin`. Names are listed without importing; a class is imported on use.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from harness.errors import UserError, unknown

T = TypeVar("T")


@cache
def _installed(group: str) -> EntryPoints:
    """The entry points of every installed package in a group: reading them takes a tenth of a second, so once per
    process."""
    return cast(EntryPoints, entry_points(group=group))


class Registry(Generic[T]):
    """Names to classes. Iterating gives the names, sorted."""

    def __init__(self, kind: str, group: str, base: str) -> None:
        """base: the class that all derive from, as MODULE:NAME, imported when the first one comes."""
        self.kind, self.group, self.base = kind, group, base
        self._added: dict[str, type[T]] = {}

    def _points(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for point in _installed(self.group):
            if point.name in found and found[point.name].value != point.value:
                raise UserError(
                    f"two packages register {self.kind} {point.name!r}: {found[point.name].value} and {point.value}; "
                    "uninstall one"
                )
            found[point.name] = point
        return found

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator; it also gives the class this `name`. Raises UserError where the name is taken, but for an
        entry point that names this very class: a file may be a plugin and part of an installed package."""

        def add(cls: type[T]) -> type[T]:
            if name in self._added or (name in self and not _is(self._points()[name], cls)):
                raise UserError(f"{self.kind} {name!r} is registered already; choose another name")
            self._check(name, cls)
            cls.name = name  # type: ignore[attr-defined]
            self._added[name] = cls
            return cls

        return add

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._points(), *self._added}))

    def __contains__(self, name: object) -> bool:
        return name in self._added or name in self._points()

    def get(self, name: str) -> type[T]:
        """The class of this name. Raises UserError, with a suggestion, for an unknown one, and for what is no such
        class."""
        if name in self._added:
            return self._added[name]
        points = self._points()
        if name not in points:
            own = f"; one of your own comes with --plugin FILE, or a package's entry point {self.group}"
            raise unknown(self.kind, name, self, own)
        try:
            found: type[T] = points[name].load()
        except (Exception, SystemExit) as error:
            raise UserError(
                f"{self.kind} {name!r} ({points[name].value}) cannot be imported: {where(error)}"
            ) from error
        self._check(name, found)
        return found

    def _check(self, name: str, cls: Any) -> None:
        """Raises UserError for what is no class of this kind, and for one that lacks what such a class must have."""
        module, _, base = self.base.partition(":")
        if not isinstance(cls, type) or not issubclass(cls, getattr(importlib.import_module(module), base)):
            what = f"the class {cls.__name__}" if isinstance(cls, type) else f"a {type(cls).__name__}"
            raise UserError(
                f"{self.kind} {name!r} is {what}, which does not derive from {module}.{base}; write "
                f"`from {module} import {base}` and `class NAME({base})`"
            )
        if missing := sorted(getattr(cls, "__abstractmethods__", ())):
            raise UserError(f"{self.kind} {name!r} (class {cls.__name__}) lacks {', '.join(missing)}, which every "
                            f"{base} has")  # fmt: skip
        if hasattr(cls, "registered"):
            cls.registered()

    def of_file(self, path: Path) -> list[str]:
        """The names that a plugin file has registered, in its order."""
        return [name for name, cls in self._added.items() if plugin_of(cls) == path.resolve()]

    def forget(self, name: str) -> None:
        """Take back what `register` added; for tests and notebooks."""
        self._added.pop(name, None)


def _is(point: EntryPoint, cls: type) -> bool:
    """Whether an entry point names this class, perhaps as its file was loaded by path."""
    if point.attr != cls.__qualname__:
        return False
    if point.module == cls.__module__:
        return True
    try:
        spec = importlib.util.find_spec(point.module)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin == getattr(sys.modules[cls.__module__], "__file__", "")


methods: Registry[Any] = Registry("method", "harness.methods", "harness.method:Method")
tasks: Registry[Any] = Registry("task", "harness.tasks", "harness.task:Task")
metrics: Registry[Any] = Registry("metric", "harness.metrics", "harness.metric:Metric")
backbones: Registry[Any] = Registry("backbone", "harness.backbones", "harness.backbones.base:Backbone")


PLUGIN = "harness_plugin_"


_OURS = ("harness", "methods", "results", "tasks")


def plugins() -> list[Path]:
    """The plugin files that were loaded, for another process to load."""
    return [Path(module.__file__ or "") for name, module in sys.modules.items() if name.startswith(PLUGIN)]


def plugin_of(cls: type) -> Path | None:
    """The plugin file that a class comes from, if it comes from one."""
    return Path(sys.modules[cls.__module__].__file__ or "") if cls.__module__.startswith(PLUGIN) else None


class Blamed(UserError):
    """A fault in code of a user's own."""


@contextmanager
def blamed(kind: str, cls: type) -> Iterator[None]:
    """What code of a user's own raises becomes an error that names it, its file and its line; what is raised by the
    harness's own passes, and so does a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if cls.__module__.partition(".")[0] in _OURS:
            raise
        path = plugin_of(cls) or Path(getattr(sys.modules.get(cls.__module__), "__file__", None) or "")
        name = getattr(cls, "name", cls.__name__)
        raise Blamed(f"{kind} {name!r} ({path}) failed: {where(error, path)}") from error


def load_plugin(path: Path) -> None:
    """Import a file, so that its decorators register. Raises UserError with the file's own error and line."""
    path = path.resolve()
    if path in plugins():
        return
    name = f"{PLUGIN}{path.stem}"
    while name in sys.modules:  # another file of the same name
        name += "_"
    if not path.is_file():
        raise UserError(f"plugin file {path} does not exist")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"plugin file {path} is not a Python file (expected a name that ends in .py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except UserError:
        sys.modules.pop(name)
        raise
    except (Exception, SystemExit) as error:
        sys.modules.pop(name)
        raise UserError(f"plugin file {path} cannot be imported: {where(error, path)}") from error


def where(error: BaseException, path: Path | None = None) -> str:
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: SyntaxError: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    mine = [frame for frame in frames if path is not None and frame.filename == str(path)] or list(frames)
    line = f"line {mine[-1].lineno}: " if mine else ""
    return f"{line}{type(error).__name__}: {error}"
