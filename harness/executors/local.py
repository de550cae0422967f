"""Points one after another in this process: each finished point is one row in the store before the next begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from harness.executors import marks, worker
from harness.executors.worker import Opened
from harness.spec import Progress
from harness.workload import Point
from results.record import Record
from results.run_folder import RunFolder

RunPoint = Callable[[Opened, Point, RunFolder, Progress], Record]


def run_point(opened: Opened, point: Point, folder: RunFolder, progress: Progress) -> Record:
    """Run one point and keep its record. One that ended this program before is not run again here, and failed."""
    if reason := marks.refusal(folder.path, point.key):
        started = datetime.now(UTC).isoformat(timespec="seconds")
        record = opened.record(point, outcome="failed", reason=reason, started=started)
    else:
        with marks.marked(folder.path, point.key):
            record = worker.record_of(opened, point, folder, progress)
    folder.put(record)
    return record


def run_points(
    opened: Opened,
    points: Sequence[Point],
    folder: RunFolder,
    progress: Progress,
    finished: Callable[[Record], None],
    one: RunPoint = run_point,
) -> None:
    """Run these points of a workload, the dense one first if it is among them. Where it fails, nothing that is compared
    with its images runs."""
    for point in sorted(points, key=lambda point: bool(point.reference)):
        record = one(opened, point, folder, progress)
        finished(record)
        if opened.needs_dense and not point.reference and not record.usable:
            break
