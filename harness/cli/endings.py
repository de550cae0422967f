"""How a command ends: its exit code, and one line for what went wrong."""

from __future__ import annotations

import errno
import functools
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import typer

from harness.errors import UserError

FAILED, MISUSED, CLOSEST, INTERRUPTED, TERMINATED = 1, 2, 4, 130, 143
"""Exit codes beside 0. FAILED: points failed, or the program did; MISUSED: bad input, or a disk or folder that does not
serve; CLOSEST: all points ran, and some budgets of --match were not met, or missed."""

DEBUG: ContextVar[bool] = ContextVar("debug", default=False)
"""Whether tracebacks are shown."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM."""


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends the program as Ctrl-C does: children are ended, nothing is half written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise _Terminated(TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def ended(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, with one line on the standard error stream and an exit code for whatever it raises."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except (KeyboardInterrupt, Exception) as error:
            if DEBUG.get():
                traceback.print_exc()
            code, line = _told(error)
            print(" ".join(line.splitlines()), file=sys.stderr)
            raise typer.Exit(code) from None

    return wrapper


def _told(error: BaseException) -> tuple[int, str]:
    """Exit code and line."""
    from results.store import StoreError  # pydantic is slow to import

    if isinstance(error, KeyboardInterrupt):
        how, code = ("terminated", TERMINATED) if isinstance(error, _Terminated) else ("interrupted", INTERRUPTED)
        return code, f"{how}: finished points are kept; the same command goes on from here"
    if isinstance(error, (UserError, StoreError)):
        return MISUSED, f"error: {error}"
    if isinstance(error, OSError) and error.errno is not None:
        hint = (
            "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check the path and its permissions"
        )
        where = f"{error.filename}: " if error.filename else ""
        return MISUSED, f"error: {where}{error.strerror}; {hint}. Finished points are kept"
    if isinstance(error, MemoryError):
        return MISUSED, "error: memory ran out; choose smaller sizes or batches. Finished points are kept"
    debug = "" if DEBUG.get() else " --debug shows the traceback (python -m harness --debug COMMAND ...),"
    return FAILED, f"internal error: {type(error).__name__}: {error};{debug} please report it"
