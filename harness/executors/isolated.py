"""Points one after another, each in a process of its own: one that is killed (out of memory, say) fails alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from harness import config, engine, plan, registry
from harness.executors.local import open_store
from harness.plan import Plan, Point
from results.record import Record


def run_point(
    made: Plan, point: Point, reference: engine.Reference | None, folder: Path, progress: engine.Progress
) -> tuple[Record, engine.Reference | None]:
    """Like `engine.run`, in a child process. A child that dies leaves a failed record with the signal or its last
    words."""
    began, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    progress(f"{point.label}: own process", 0)
    work = {
        "sweep": made.sweep.model_dump(mode="json"),
        "plugins": [str(path) for path in registry.plugins()],
        "key": point.key,
        "folder": str(folder),
    }
    command = [sys.executable, "-m", "harness.executors.isolated"]
    child = subprocess.run(command, input=json.dumps(work), text=True, capture_output=True)
    progress(f"{point.label}: own process", engine.images_per_point(made, point))
    with open_store(made, folder) as store:
        record = store.get(point.key)
    if child.returncode or record is None or record.started < started:
        record = engine.record_of(
            made, point, outcome="failed", reason=_last_words(child), started=started, seconds=time.monotonic() - began
        )
        return record, None
    return record, engine.read_reference(record, made.cases, folder) if record.usable else None


def _last_words(child: subprocess.CompletedProcess[str]) -> str:
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        hint = ", perhaps because memory ran out" if name == "SIGKILL" else ""
        return f"the point's process was ended by {name}{hint}"
    lines = [line for line in child.stderr.splitlines() if line.strip()]
    return f"the point's process ended with code {child.returncode}: {lines[-1][:300] if lines else 'no message'}"


def _main() -> None:
    work = json.load(sys.stdin)
    for path in work["plugins"]:
        registry.load_plugin(Path(path))
    plans = plan.make(config.build(work["sweep"]))
    made, point = next((one, point) for one in plans for point in one.points if point.key == work["key"])
    folder, dense = Path(work["folder"]), made.points[0]
    with open_store(made, folder) as store:
        known = None if point is dense else store.get(dense.key)
        reference = engine.read_reference(known, made.cases, folder) if known else None
        made.task.prepare(made.cases)
        record, _ = engine.run(made, point, reference, folder, lambda _what, _images: None)
        store.put(record)


if __name__ == "__main__":
    _main()
