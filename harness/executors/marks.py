"""A mark of the point that runs in this process: where the process dies of it, the next start knows.

A point that ends the process itself (`os._exit`, a fault in native code) is not run again here. What kills a process
from outside leaves no such trace, so that a point in which it happened is run again, but not for ever.
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from results.at_work import RUNNING
from results.files import write_atomic

DEATHS = 3
"""How often a process may be killed while a point runs before the point counts as the reason."""


def refusal(folder: Path, key: str) -> str:
    """Why a point is not to be run in this process; "" where nothing speaks against it."""
    mark = _mark(folder, key)
    how = _fault(mark)
    if not how and _deaths(mark) >= DEATHS:
        how = f"was killed {DEATHS} times (perhaps because memory ran out)"
    return f"the process {how} while this point ran; give --isolate to run it in a process of its own" if how else ""


@contextmanager
def marked(folder: Path, key: str) -> Iterator[None]:
    """While a point runs. Whatever is raised takes the mark away: then the process lives, or was asked to stop."""
    mark = _mark(folder, key)
    write_atomic(mark, json.dumps({"deaths": _deaths(mark) + 1}))
    fault = mark.with_suffix(".fault")
    leave, process = os._exit, os.getpid()

    def left(code: int) -> NoReturn:
        if os.getpid() == process:  # and no fork of it
            fault.write_text(f"os._exit({code})\n", encoding="utf-8")
        leave(code)

    with open(fault, "w", encoding="utf-8") as handle:
        on = faulthandler.is_enabled()
        faulthandler.enable(handle)  # native faults are told there
        os._exit = left  # type: ignore[assignment]
        try:
            yield
        finally:
            os._exit = leave
            faulthandler.enable(sys.__stderr__) if on and sys.__stderr__ else faulthandler.disable()
            forget(folder, key)


def forget(folder: Path, key: str) -> None:
    """The point has been run."""
    mark = _mark(folder, key)
    for path in (mark, mark.with_suffix(".fault")):
        path.unlink(missing_ok=True)
    if mark.parent.is_dir() and not any(mark.parent.iterdir()):
        mark.parent.rmdir()


def _mark(folder: Path, key: str) -> Path:
    return folder / RUNNING / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def _fault(mark: Path) -> str:
    try:
        first = mark.with_suffix(".fault").read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    except OSError:
        return ""
    how = first.removeprefix("Fatal Python error: ")
    return f"was ended by {how if how == first else how.lower()}" if how else ""


def _deaths(mark: Path) -> int:
    try:
        return int(json.loads(mark.read_text(encoding="utf-8"))["deaths"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return 0
