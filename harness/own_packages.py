"""The packages beside this one are found there, whatever lies in the current folder or comes first on Python's path.

`python -m` looks into the current folder first, and a folder `results/`, or a user's own `tasks.py`, would hide them.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

_HOME = Path(__file__).resolve().parent.parent
_NAMES = ("methods", "results", "tasks")


class _Beside(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        start = _HOME / fullname / "__init__.py"
        if fullname not in _NAMES or not start.is_file():
            return None
        return importlib.util.spec_from_file_location(fullname, start, submodule_search_locations=[str(start.parent)])


def find_first() -> None:
    """Raises ImportError where another module of such a name has been imported already."""
    for name in _NAMES:
        if name in sys.modules:
            place = getattr(sys.modules[name], "__file__", None) or "a folder without __init__.py"
            if Path(place).resolve().parent != _HOME / name:
                raise ImportError(
                    f"harness has a package {name!r}, and another one ({place}) was imported before it: rename that "
                    "one, or import harness first"
                )
    if not any(isinstance(finder, _Beside) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Beside())
