"""Render docs/backbones.md from the families under the contract:

python tests/backbones/document.py > docs/backbones.md
"""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]

from contract import Contract  # noqa: E402
from families import Family  # noqa: E402

from harness import registry  # noqa: E402
from harness.attach import check  # noqa: E402
from harness.catalog import table  # noqa: E402

ELSEWHERE = {"lazy-pixart": "tests/test_lazy.py"}  # it needs a canvas and an encoder, and has tests of its own
GUIDE = HERE / "adding_a_backbone.md"


def families() -> list[Family]:
    """Every family that a test file beside this one puts under the contract, by name."""
    for path in sorted(HERE.glob("test_*.py")):
        importlib.import_module(path.stem)
    return sorted((cls.family for cls in Contract.__subclasses__()), key=lambda family: family.name)


def checks() -> dict[str, str]:
    """Check -> what it shows."""
    found = {name: cls for name, cls in vars(Contract).items() if name.startswith("test_")}
    return {name: inspect.cleandoc(one.__doc__ or "").splitlines()[0] for name, one in found.items()}


def markdown() -> str:
    shown = families()
    classes = {family.name: registry.backbones.get(family.name) for family in shown}
    support = [
        (
            f"`{family.name}`", family.about, ", ".join(f"`{name}`" for name in sorted(classes[family.name].classes)),
            "square" if family.grid[0] == family.grid[1] else "any",
            ", ".join(sorted(classes[family.name].parts)),
            ", ".join(sorted(classes[family.name].capabilities)) or "none",
        )
        for family in shown
    ]  # fmt: skip
    passed = [(what, *("yes" for _ in shown)) for what in checks().values()]
    served = []
    for name in registry.methods:
        reasons = [check(registry.methods.get(name), classes[family.name]) for family in shown]
        served.append((name, *(f"no: {reason}" if reason else "yes" for reason in reasons)))
    names = [f"`{family.name}`" for family in shown]
    return "\n\n".join(
        [
            "# Backbones",
            "Written by `python tests/backbones/document.py` from the families that the contract in "
            "`tests/backbones/contract.py` runs on, each as a shrunken random instance of the true class. *Parts* are "
            "those that every layer has; *capabilities* are what some methods need beside them; *grids* are square "
            "where the model itself takes no others.",
            table(("name", "what it is", "classes", "grids", "parts", "capabilities"), support),
            "Tested on their own: " + ", ".join(f"`{name}` in `{where}`" for name, where in ELSEWHERE.items()) + ".",
            "## What every family passes",
            table(("check", *names), passed),
            "## Methods that each family serves",
            "At default settings. A method is refused when a sweep is planned, with the reason given here.",
            table(("method", *names), served),
            GUIDE.read_text().rstrip(),
        ]
    ) + "\n"  # fmt: skip


if __name__ == "__main__":
    print(markdown(), end="")
