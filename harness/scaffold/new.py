"""Write a working file, its test, and what makes a package of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from harness.errors import UserError, unknown
from harness.scaffold.names import REGISTRIES, Names, names_of

KINDS = tuple(REGISTRIES)
_TEMPLATES = files("harness.scaffold") / "templates"


@dataclass(frozen=True)
class Made:
    """What was written. source: the file that registers. commands: what to try next, in this order."""

    source: Path
    test: Path
    project: Path
    commands: tuple[str, ...]


def new(kind: str, name: str, out: Path | None = None) -> Made:
    """A folder with a working method, metric, task or backbone of this name, its test, and a pyproject.toml that
    registers it as an entry point. out: the folder, by default one of the module's name, here. Raises UserError for an
    unknown kind, a name that is taken or no identifier, and for a folder that exists; OSError where nothing can be
    written."""
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    source = (_TEMPLATES / f"{kind}.py.jinja").read_text(encoding="utf-8")
    names = names_of(kind, name, set(re.findall(r"\b[A-Z]\w+", source)))
    folder = Path(names.module) if out is None else out
    if folder.exists() or folder.is_symlink():
        raise UserError(f"{folder} exists already, and nothing is written over; choose another name or --out")
    path = folder / f"{names.module}.py"
    commands = (*_commands(kind, names.name, path), f"python -m pytest {folder}", f"pip install -e {folder}")
    texts = {
        path.name: source,
        f"test_{names.module}.py": (_TEMPLATES / f"{kind}_test.py.jinja").read_text(encoding="utf-8"),
        "pyproject.toml": (_TEMPLATES / "pyproject.toml.jinja").read_text(encoding="utf-8"),
    }
    rendered = {file: _render(text, kind, names) for file, text in texts.items()}
    folder.mkdir(parents=True)
    for file, text in rendered.items():
        (folder / file).write_text(text, encoding="utf-8")
    return Made(path, folder / f"test_{names.module}.py", folder / "pyproject.toml", commands)


def _commands(kind: str, name: str, path: Path) -> tuple[str, ...]:
    run = "python -m harness run"
    return {
        "method": (f"{run} --methods {name} --plugin {path} --quick --cases 4", f"python -m harness check {path}"),
        "metric": (f"{run} --methods tome --metrics paired,{name} --plugin {path} --quick --cases 4",),
        "task": (f"{run} --task {name} --methods tome --plugin {path} --quick --cases 4",),
        "backbone": (f"{run} --model FOLDER --prompts FILE --plugin {path} --quick --cases 4",),
    }[kind]


def _render(text: str, kind: str, names: Names) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    return environment.from_string(text).render(
        kind=kind, name=names.name, module=names.module, cls=names.class_, package=names.package
    )
