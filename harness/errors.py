"""Errors that a user can mend. The command line prints them in one line and exits with code 2."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Collection, Iterable
from pathlib import Path


class UserError(Exception):
    """The message names the thing, what was expected and what to do."""


class MethodFailure(Exception):
    """A method did not do what a method must; the message is the record's reason."""


def unknown(kind: str, name: str, known: Iterable[str], also: str = "") -> UserError:
    """An error for a name that does not exist, with the nearest one that does. also: what to say at the end."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UserError(f"unknown {kind} {name!r}: {hint}known: {', '.join(names) or 'none'}{also}")


def first_line(error: BaseException) -> str:
    """What it says, as far as one line of a table holds it."""
    return (str(error).splitlines() or [""])[0][:300]


def failure_reason(error: BaseException, own: Collection[str] = ()) -> str:
    """Why a point failed, in one line: what was raised, and the last line of these files that it came through."""
    if isinstance(error, MethodFailure):
        return str(error)
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in own]
    where = f" ({Path(lines[-1].filename).name}, line {lines[-1].lineno})" if lines else ""
    return f"{type(error).__name__}: {first_line(error)}{where}"
