"""All lines, group by group. A group that raises is a line itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from harness.doctor import install, machine, weights
from harness.doctor.line import Line, first_line

GROUPS: dict[str, Callable[[], Iterator[Line]]] = {
    "Python": install.python,
    "package": install.package,
    "packages": install.dependencies,
    "device": machine.device,
    "compilers": machine.compilers,
    "models": weights.models,
    "extras": install.extras,
    "caches": weights.caches,
    "memory": machine.memory,
    "disk": machine.disk,
}


def examine() -> Iterator[Line]:
    for name, group in GROUPS.items():
        try:
            yield from group()
        except Exception as error:  # an import that fails, a driver, a disk: the next group is looked at all the same
            remedy = "see the lines above; what is still bad after that is worth a report"
            yield Line(name, "bad", f"cannot be looked at: {first_line(error)}", remedy)


def report() -> int:
    """Print all lines as plain text; returns the exit code: 0, or 1 where a line is bad."""
    signs = {"ok": "ok  ", "note": "note", "bad": "BAD "}
    bad = 0
    for line in examine():
        bad += line.state == "bad"
        print(f"{signs[line.state]}  {line.what}: {line.found}", flush=True)
        if line.remedy:
            print(f"        {line.remedy}")
    print("nothing is in the way of a run" if not bad else f"{bad} to mend")
    return 1 if bad else 0
