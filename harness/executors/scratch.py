"""A folder that a process works in: removed when it ends and, where it was killed, by the next one on that machine."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "dit-harness-worker-"


@contextmanager
def scratch(parent: Path | None = None) -> Iterator[Path]:
    """An empty folder below `parent`, or the system's own place for such. While a process lives it holds a lock on its
    folder; folders without one are nobody's."""
    place = Path(parent or tempfile.gettempdir())
    for old in place.glob(f"{_PREFIX}*"):
        if (lock := _locked(old)) is not None:
            shutil.rmtree(old, ignore_errors=True)
            os.close(lock)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        lock = _locked(folder)
        if lock is not None and folder.is_dir():  # else another process took it for an old one
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked(folder: Path) -> int | None:
    """A lock on a folder, None where somebody else has it or it is not ours."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except OSError:
            os.close(handle)
    return None
