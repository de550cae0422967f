"""What a new method, metric, task or backbone may be called."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from dataclasses import dataclass

from harness import registry
from harness.errors import UserError

REGISTRIES = {
    "method": registry.methods, "metric": registry.metrics, "task": registry.tasks, "backbone": registry.backbones,
}  # fmt: skip
_RESERVED = {"method": {"all"}}  # `--methods all`


@dataclass(frozen=True)
class Names:
    """name: in the registry. module: of the file. class_: of the class. package: of the distribution."""

    name: str
    module: str
    class_: str
    package: str


def names_of(kind: str, name: str, used: set[str]) -> Names:
    """used: class names that the file needs itself. Raises UserError for a name that is taken, or no identifier."""
    module = name.replace("-", "_")
    if not re.fullmatch(r"[A-Za-z]\w*", module, re.ASCII) or keyword.iskeyword(module):
        raise UserError(
            f"{name!r} cannot name a Python file; take letters, digits, hyphens and underscores, a letter first, and "
            "no word of the language"
        )
    if name in REGISTRIES[kind] or name in _RESERVED.get(kind, ()):
        raise UserError(f"{kind} {name!r} is registered already; choose another name")
    if module in sys.stdlib_module_names or _importable(module):
        raise UserError(f"Python has a module {module!r} already, which a file of that name would hide; choose another")
    class_ = "".join(part[:1].upper() + part[1:] for part in module.split("_"))
    return Names(name, module, class_ + kind.capitalize() if class_ in used else class_, name.replace("_", "-"))


def _importable(module: str) -> bool:
    """Folders without __init__.py, which Python also imports, do not count."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None
