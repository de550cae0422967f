"""`python -m harness merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import writable
from harness.errors import UserError


def merge(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of one workload, as `run --shard` makes them.")],
    out: Annotated[Path, typer.Option(help="Run folder to put them into; it may hold some already.")],
) -> None:
    """Put run folders of one workload together, with their images, and draw the whole."""
    from rich.console import Console

    from results.merge import merged
    from results.store import StoreError

    writable(out)
    try:
        run = merged(runs, out)
    except StoreError as error:
        raise UserError(str(error)) from error
    run.print(Console())
    print(f"merged into {out}: {len(run.records)} points of {len(runs)} runs")
