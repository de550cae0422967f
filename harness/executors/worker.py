"""What every executor calls: open a workload once, then run its points."""

from __future__ import annotations

from pathlib import Path

from harness import plan, registry
from harness.engine import OpenWorkload
from harness.profiling.step import OpenStep
from harness.profiling.workload import open_step
from harness.sweep import Profile, Sweep, validated
from harness.workload import Workload

Opened = OpenWorkload | OpenStep
"""A workload at hand: `run(point, folder, progress)` gives a record, `record(point, ...)` one of what became of it."""


def open_workload(workload: Workload) -> Opened:
    """The model, the task and its cases, in a process that was handed the workload. Its digests are taken as they are.
    Raises UserError where something is not here."""
    request = {name: value for name, value in workload.request.items() if name != "kind"}
    if workload.kind == "step":
        return open_step(validated(Profile, request), workload)
    return plan.reopen(validated(Sweep, request), workload)


def load_plugins(paths: list[str]) -> None:
    for path in paths:
        registry.load_plugin(Path(path))
