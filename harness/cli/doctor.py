"""`python -m harness doctor`."""

from __future__ import annotations

import typer


def doctor() -> None:
    """Look at the install, torch, devices, compilers, weights, extras, caches and disk, and say what to do where
    something is not fine. Exit code 1 where something is in the way of a run."""
    from harness.doctor import report

    if code := report():
        raise typer.Exit(code)
