"""Which processes add points to a run folder: each leaves a mark while it does, which others can read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from results.files import HOST, runs, write_atomic

RUNNING = "running"
"""Folder of marks: of processes that add points, and of points that run in them."""
_PROCESS = ".process"


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """While this process adds points, or seeks the settings of some. Within such a context another one does nothing."""
    mark = _own(folder)
    if mark.exists():
        yield
        return
    write_atomic(mark, "")
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)
        with suppress(OSError):  # another process's mark is in it, or something was written
            mark.parent.rmdir()
            folder.rmdir()


def others(folder: Path) -> bool:
    """Whether another process is at work there."""
    return any(mark != _own(folder) and not _lost(mark) for mark in _marks(folder))


def _own(folder: Path) -> Path:
    return folder / RUNNING / f"{HOST}.{os.getpid()}{_PROCESS}"


def workers(folder: Path) -> tuple[int, int]:
    """How many processes add points, and how many ended before they were through. One on another machine counts as at
    work as long as its mark is there."""
    marks = _marks(folder)
    return len(marks) - sum(map(_lost, marks)), sum(map(_lost, marks))


def clear(folder: Path) -> None:
    """Remove the marks of processes that have ended."""
    for mark in filter(_lost, _marks(folder)):
        mark.unlink(missing_ok=True)


def _marks(folder: Path) -> list[Path]:
    return list((folder / RUNNING).glob(f"*{_PROCESS}"))


def _lost(mark: Path) -> bool:
    """Whether it is of a process of this machine that is there no more."""
    host, _, process = mark.name.removesuffix(_PROCESS).rpartition(".")
    return host == HOST and process.isdecimal() and not runs(int(process))
