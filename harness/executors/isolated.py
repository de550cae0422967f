"""Points one after another, each in a process of its own: one that is killed (out of memory, say) fails alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime

from harness import registry
from harness.executors import worker
from harness.executors.worker import Opened
from harness.spec import Progress
from harness.workload import Point
from results.record import Record
from results.run_folder import RunFolder


def run_point(opened: Opened, point: Point, folder: RunFolder, progress: Progress) -> Record:
    """Like `local.run_point`, in a child process, which keeps the record itself. A child that dies leaves a failed
    record with the signal or its last words."""
    began, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    progress(f"{point.label}: own process", 0)
    work = {
        "plugins": [str(path) for path in registry.plugins()],
        "point": point.to_json(),
        "folder": str(folder.path),
    }
    command = [sys.executable, "-m", "harness.executors.isolated"]
    child = subprocess.run(command, input=json.dumps(work), text=True, capture_output=True)
    progress(f"{point.label}: own process", opened.work_per_point)
    record = folder.store.get(point.key)
    if child.returncode or record is None or record.started < started:
        record = opened.record(
            point, outcome="failed", reason=_last_words(child), traceback=child.stderr[-20_000:], started=started,
            seconds=time.monotonic() - began,
        )  # fmt: skip
        folder.put(record)
    return record


def _last_words(child: subprocess.CompletedProcess[str]) -> str:
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        hint = ", perhaps because memory ran out" if name == "SIGKILL" else ""
        return f"the point's process was ended by {name}{hint}"
    lines = [line for line in child.stderr.splitlines() if line.strip()]
    return f"the point's process ended with code {child.returncode}: {lines[-1][:300] if lines else 'no message'}"


def _main() -> None:
    work = json.load(sys.stdin)
    worker.load_plugins(work["plugins"])
    point = Point.from_json(work["point"])
    opened = worker.open_workload(point.workload)
    with RunFolder.reach(work["folder"]) as folder:
        folder.put(opened.run(point, folder, lambda _what, _images: None))


if __name__ == "__main__":
    _main()
