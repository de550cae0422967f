"""What every executor calls: open a workload once, then run its points."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from harness import plan, registry
from harness.engine import OpenWorkload
from harness.generation import Chunk
from harness.profiling.step import OpenStep
from harness.profiling.workload import open_step
from harness.spec import Progress
from harness.sweep import Profile, Sweep, validated
from harness.workload import Point, Workload
from results.record import Record
from results.run_folder import RunFolder

Opened = OpenWorkload | OpenStep
"""An open workload: `run(point, folder, progress)` gives a record, `record(point, ...)` one of what became of it."""


def open_workload(workload: Workload) -> Opened:
    """The model, the task and its cases, in a process of its own that was handed the workload, and that runs on as many
    threads from here on. Its digests are taken as they are. Raises UserError where something is not here."""
    torch.set_num_threads(int(workload.depends_on["threads"]))
    request = {name: value for name, value in workload.request.items() if name != "kind"}
    if workload.kind == "step":
        return open_step(validated(Profile, request), workload)
    return plan.reopen(validated(Sweep, request), workload)


def record_of(
    opened: Opened, point: Point, folder: RunFolder, progress: Progress, made: Sequence[Chunk] = ()
) -> Record:
    """Run a point; its record. What would end this process (`sys.exit` in a method) costs the point alone. made: images
    that others have made."""
    began, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    try:
        if made and isinstance(opened, OpenWorkload):
            return opened.run(point, folder, progress, made)
        return opened.run(point, folder, progress)
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        return opened.record(
            point, outcome="failed", reason=f"{type(error).__name__}: it tried to end the program ({error})",
            traceback=traceback.format_exc(), started=started, seconds=time.monotonic() - began,
        )  # fmt: skip


def load_plugins(paths: list[str]) -> None:
    for path in paths:
        registry.load_plugin(Path(path))
