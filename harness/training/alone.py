"""One process at a time in a folder of checkpoints."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import UserError

_LOG = logging.getLogger(__name__)


@contextmanager
def alone(folder: Path, what: str, *, wait: bool = True) -> Iterator[None]:
    """Wait until no other process of this machine is in here. Where the file system knows no locks, nobody waits.
    Raises UserError in place of waiting unless `wait`."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise UserError(f"another process trains {what} in {folder}: start again when it is done") from None
            _LOG.warning("another process trains in %s: %s waits for it", folder, what)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            pass
        yield
    finally:
        os.close(handle)
