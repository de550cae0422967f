"""Points one after another, each in a process of its own: one that is killed (out of memory, say) or does not end fails
alone. A child never outlives its parent: a pipe between them closes when the parent dies, however it does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from tempfile import TemporaryFile

from harness import registry
from harness.executors import marks, worker
from harness.executors.worker import Opened
from harness.spec import Progress
from harness.workload import Point
from results.record import Record
from results.run_folder import RunFolder
from results.store import StoreError

_COMMAND = [sys.executable, "-m", "harness.executors.isolated"]
_NO_STORE = "the store does not serve: "
_FAILED = "the point failed: "  # how the last line of a child begins whose point did
_KEPT = 20_000  # characters of what a child said last


def run_point(
    opened: Opened, point: Point, folder: RunFolder, progress: Progress, timeout: float | None = None
) -> Record:
    """Like `local.run_point`, in a child process, which keeps the record itself. A child that dies leaves a failed
    record with the signal or its last words. timeout: seconds after which it is killed. Raises StoreError where the
    child could not use the store."""
    began, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    progress(f"{point.label}: own process", 0)
    work = {
        "plugins": [str(path) for path in registry.plugins()],
        "point": point.to_json(),
        "folder": str(folder.path),
    }
    why, words = _child(json.dumps(work), timeout)
    progress(f"{point.label}: own process", opened.work_per_point)
    record = folder.store.get(point.key)
    kept = record is not None and record.started >= started
    if record is None or not kept or (why and not record.usable):  # what it kept stands, however it ended then
        record = opened.record(
            point, outcome="failed", reason=why or "the point's process left no record", traceback=words[-_KEPT:],
            started=started, seconds=time.monotonic() - began,
        )  # fmt: skip
        folder.put(record)
    marks.forget(folder.path, point.key)
    return record


def _child(work: str, timeout: float | None) -> tuple[str, str]:
    """Run a child. Returns why it failed, "" where it did not, and what it wrote to its streams."""
    with TemporaryFile() as output:
        child = subprocess.Popen(_COMMAND, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True)
        assert child.stdin is not None
        try:
            with suppress(BrokenPipeError):  # its exit status tells
                child.stdin.write(work.encode() + b"\n")
                child.stdin.flush()
            child.wait(timeout)
            why = ""
        except subprocess.TimeoutExpired:
            why = f"the point took longer than {timeout:g} s (--point-timeout)"
        finally:  # also after an interrupt
            _kill(child)
            with suppress(BrokenPipeError):
                child.stdin.close()
        output.seek(0)
        words = output.read().decode("utf-8", errors="replace")
    return why or _last_words(child.returncode, words), words


def _kill(child: subprocess.Popen[bytes]) -> None:
    """The child and whatever it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _last_words(code: int, words: str) -> str:
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = ", perhaps because memory ran out" if name == "SIGKILL" else ""
        return f"the point's process was ended by {name}{hint}"
    lines = [line for line in words.splitlines() if line.strip()]
    if code and lines and lines[-1].startswith(_NO_STORE):
        raise StoreError(lines[-1].removeprefix(_NO_STORE))  # a full disk, say, which is no fault of the method
    if code and lines and lines[-1].startswith(_FAILED):
        return lines[-1].removeprefix(_FAILED)
    return f"the point's process ended with code {code}: {lines[-1][:300] if lines else 'no message'}" if code else ""


def _main() -> None:
    pipe = os.fdopen(os.dup(0), "rb")
    work = json.loads(pipe.readline())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # a plugin that asks for input gets none
    threading.Thread(target=_watch, args=(pipe,), daemon=True).start()
    worker.load_plugins(work["plugins"])
    point = Point.from_json(work["point"])
    opened = worker.open_workload(point.workload)
    try:
        with RunFolder.reach(work["folder"]) as folder:
            record = worker.record_of(opened, point, folder, lambda _what, _images: None)
            folder.put(record)
    except StoreError as error:
        sys.exit(_NO_STORE + " ".join(str(error).split()))
    if record.outcome == "failed":  # where an earlier record stays, the store does not hold why
        print(record.traceback, file=sys.stderr)
        sys.exit(_FAILED + " ".join(record.reason.split()))


def _watch(pipe: object) -> None:
    """Ends this process, and all that it started, when the parent is gone."""
    pipe.read()  # type: ignore[attr-defined]
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    _main()
