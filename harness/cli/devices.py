"""`python -m harness devices`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import writable
from harness.errors import UserError


def devices(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of one workload, each from another device.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to. [default: the first run]", show_default=False)
    ] = None,
) -> None:
    """Put runs of one workload from several devices side by side: one quality, checked to agree, and a latency each."""
    from results.analysis.differences import NotComparable
    from results.compare import OtherWorkloads
    from results.devices import side_by_side
    from results.store import StoreError
    from results.tables.devices import render, write

    try:
        table = side_by_side(runs)
    except OtherWorkloads as error:
        raise UserError(f"{error}: {'; '.join(error.differing)}") from error
    except (NotComparable, StoreError) as error:
        raise UserError(str(error)) from error
    folder = out or runs[0]
    writable(folder)
    written = write(table, folder)
    print(render(table))
    print(f"written to {folder}: {', '.join(str(path.relative_to(folder)) for path in written)}")
