"""Errors that a user can mend. The command line prints them in one line and exits with code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """The message names the thing, what was expected and what to do."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """An error for a name that does not exist, with the nearest one that does."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UserError(f"unknown {kind} {name!r}: {hint}known: {', '.join(names) or 'none'}")


def first_line(error: BaseException) -> str:
    """What it says, as far as one line of a table holds it."""
    return (str(error).splitlines() or [""])[0][:300]
