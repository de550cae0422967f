"""Processes of one machine that share a device: many at once, or one alone while it measures.

The turns are locks on two files, which the kernel gives back when a process dies, however it does. Whoever is among
others holds `room` shared; whoever wants to be alone holds `gate`, at which the others wait when they next pause.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import UserError

FOLDER = Path(tempfile.gettempdir()) / f"dit-harness-turns-{os.getuid()}"


class Turns:
    """name: of the device; processes that give the same one take turns. waits: called with True where waiting begins,
    and with False where it ends. exclusive_s: seconds in which this process was alone. Raises UserError where the lock
    files cannot be made."""

    def __init__(
        self, name: str, waits: Callable[[bool], None] = lambda _waits: None, folder: Path | None = None
    ) -> None:
        folder = folder or FOLDER
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            plain = re.sub(r"\W+", "-", name)
            self._gate, self._room = (
                os.open(folder / f"{plain}.{part}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                for part in ("gate", "room")
            )
        except OSError as error:
            raise UserError(f"workers cannot take turns through {folder}: {error.strerror}; set TMPDIR to a folder "
                            "that can be written") from error  # fmt: skip
        self._waits, self._alone = waits, False
        self.exclusive_s = 0.0

    @contextmanager
    def among_others(self) -> Iterator[None]:
        """Use the device, maybe beside others."""
        self._join()
        try:
            yield
        finally:
            fcntl.flock(self._room, fcntl.LOCK_UN)

    def pause(self) -> None:
        """Let whoever wants to be alone go first. To be called often by whoever is among others; while alone, it does
        nothing."""
        if self._alone:
            return
        if _taken(self._gate, fcntl.LOCK_SH):
            fcntl.flock(self._gate, fcntl.LOCK_UN)
            return
        fcntl.flock(self._room, fcntl.LOCK_UN)
        self._join()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Use the device while no other process does; to be entered from `among_others`."""
        fcntl.flock(self._room, fcntl.LOCK_UN)
        try:
            self._take(self._gate, fcntl.LOCK_EX)
            self._take(self._room, fcntl.LOCK_EX)
            self._alone, began = True, time.monotonic()
            try:
                yield
            finally:
                self._alone = False
                self.exclusive_s += time.monotonic() - began
        finally:
            fcntl.flock(self._room, fcntl.LOCK_UN)
            fcntl.flock(self._gate, fcntl.LOCK_UN)
            self._join()

    def close(self) -> None:
        os.close(self._gate)
        os.close(self._room)

    def _join(self) -> None:
        self._take(self._gate, fcntl.LOCK_SH)
        self._take(self._room, fcntl.LOCK_SH)
        fcntl.flock(self._gate, fcntl.LOCK_UN)

    def _take(self, file: int, how: int) -> None:
        if _taken(file, how):
            return
        self._waits(True)
        try:
            fcntl.flock(file, how)
        finally:
            self._waits(False)


def _taken(file: int, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
