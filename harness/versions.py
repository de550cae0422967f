"""What stands for a piece of code in keys: a version for what comes with the harness, a digest for what does not.

A change of the harness that can change a figure raises the version of the part that it belongs to (`version` of a
task, metric or backbone class; `harness.measure.VERSION` for the measurements), so that everything that rests on the
part runs again, and nothing else. A method has no version: its own source is digested, docstrings and comments apart.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from harness import renamed
from harness.registry import PLUGIN

OURS = ("harness", "results", "methods", "tasks")
_ENGINE = ("harness", "results")  # its parts have versions
_SOURCES: dict[type[Any], str] = {}  # of the code that this process has loaded
_RENAMED = [renamed.METHOD, renamed.SAMPLER_CLOCK, renamed.BACKBONE, renamed.CALIBRATION_PASS]
_RENAMED += renamed.MODULES.values()
_FIRST_NAMES = {new: old for names in _RENAMED for old, new in names.items()} | {"model_output": "said"}
"""So that points of a method in which names alone have changed do not run again. None is ever taken out."""


def of_part(cls: type[Any]) -> str:
    """The version of a task, metric or backbone class; for one that a user brings, with the digest of its source."""
    version = str(getattr(cls, "version", 1))
    return version if cls.__module__.partition(".")[0] in OURS else f"{version}, source {of_source(cls)[:16]}"


def of_source(cls: type[Any]) -> str:
    """sha256 over the syntax trees, without docstrings and comments, of the class's module and of the local modules
    that it imports, directly or not. Local is what is neither the engine, nor the standard library, nor installed
    beside other packages; a module of the class's own package is local wherever it lies."""
    if cls not in _SOURCES:
        _SOURCES[cls] = _digest(cls)
    return _SOURCES[cls]


def _digest(cls: type[Any]) -> str:
    try:
        path = inspect.getsourcefile(cls)
        if path is None or not Path(path).is_file():  # a notebook's cell
            return _sha(normalised(inspect.getsource(cls)))
    except (OSError, TypeError, SyntaxError):
        return _sha(repr([(name, getattr(value, "__code__", None)) for name, value in sorted(vars(cls).items())]))
    trees: dict[str, str] = {}
    _collect(cls.__module__, Path(path), cls.__module__.partition(".")[0], trees)
    return _sha("\0".join(f"{name}\0{trees[name]}" for name in sorted(trees)))


def normalised(source: str) -> str:
    """The syntax tree as text: the same for two sources that differ in comments, layout and docstrings alone, or in
    names of the interface that have changed."""
    tree = ast.parse(inspect.cleandoc(source) if source[:1].isspace() else source)
    for node in ast.walk(tree):
        _rename(node)
        match node:
            case ast.Module() | ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                if ast.get_docstring(node, clean=False) is not None:
                    node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


def _rename(node: ast.AST) -> None:
    """Gives names of the interface that have changed their first form."""
    if isinstance(node, ast.ImportFrom) and any(one.name in _FIRST_NAMES for one in node.names):
        for one in node.names:
            one.name = _FIRST_NAMES.get(one.name, one.name)
        node.names.sort(key=lambda one: (not one.name.isupper(), not one.name[0].isupper(), one.name))  # as ruff does
    for field in ("id", "attr", "arg", "name"):
        if (name := getattr(node, field, None)) in _FIRST_NAMES:
            setattr(node, field, _FIRST_NAMES[name])


def _collect(name: str, path: Path, package: str, trees: dict[str, str]) -> None:
    # The file's name stands for a module that is loaded from a file under a made-up name.
    made_up = name == "__main__" or name.startswith(PLUGIN)
    label = name if name.partition(".")[0] in OURS else path.name if made_up else f"{name.replace('.', '/')}.py"
    if label in trees:
        return
    source = path.read_text(encoding="utf-8")
    trees[label] = normalised(source)
    inside = f"{name}." if path.name == "__init__.py" else name  # what lies in a package is beside its __init__
    for imported in dict.fromkeys(one for full in _imports(ast.parse(source), inside) for one in _with_packages(full)):
        if imported.partition(".")[0] not in _ENGINE and (found := _local(imported, path, package)) is not None:
            _collect(imported, found, package, trees)


def _with_packages(name: str) -> list[str]:
    """A module and the packages that it lies in, which are imported before it; those that come with the harness hold
    nothing."""
    parts = name.split(".")
    first = len(parts) if parts[0] in OURS else 1
    return [".".join(parts[:count]) for count in range(first, len(parts) + 1)]


def _imports(tree: ast.AST, name: str) -> Iterator[str]:
    """The modules that a module may import, in full; `from a import b` may mean a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = name.split(".")[: -node.level]
                base = ".".join([*above, base] if base else above)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _local(name: str, beside: Path, package: str) -> Path | None:
    """The file of a local module; None for any other module, or none."""
    if (loaded := sys.modules.get(name)) is not None:
        file = getattr(loaded, "__file__", None)
    else:
        try:
            found = importlib.util.find_spec(name)
        except (ImportError, ValueError, AttributeError):
            found = None
        file = found.origin if found is not None else None
    if not file or not file.endswith(".py"):
        near = beside.parent / f"{name.replace('.', '/')}.py"
        return near if near.is_file() else None
    own = name.partition(".")[0] == package
    return Path(file) if own or not _installed(Path(file).resolve()) else None


@cache
def _installed(path: Path) -> bool:
    """Whether a file belongs to the standard library or to an installed distribution."""
    roots = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    return any(path.is_relative_to(Path(root).resolve()) for root in roots if root)


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
