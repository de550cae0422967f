"""`python -m harness watch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.grouped import CONTROL, OUTPUT
from harness.cli.options import writable
from harness.errors import UserError


def watch(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, while points are added to them.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the report. [default: report, in the first run folder]",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    every: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Seconds between two looks at the runs.", rich_help_panel=CONTROL)
    ] = 2.0,
) -> None:
    """Draw the report of runs again as records arrive, until the runs end or Ctrl-C; see `report`.

    The page loads itself anew while it is watched. Nothing is drawn where no record and no picture has changed.
    """
    from results.at_work import workers
    from results.report.watch import Watch
    from results.report.write import ReportError, place
    from results.run_folder import RunFolder
    from results.store import StoreError

    following = Watch(runs, out, lambda line: print(line, flush=True))
    try:
        for run in runs:
            RunFolder.open(run).close()
        writable(place(runs, out))
        try:
            page = following.follow(every)
        except KeyboardInterrupt as stop:
            page = following.close()
            print(f"no longer watching: {page}" if page else "no longer watching")
            if type(stop) is not KeyboardInterrupt:  # a request to end, not Ctrl-C
                raise
            return
    except (StoreError, ReportError) as error:
        raise UserError(str(error)) from error
    if lost := sum(workers(run)[1] for run in runs):
        print(
            f"{lost} process{'es' * (lost > 1)} ended before all points were made; the same command goes on from there"
        )
    print(f"no run is at work any more: {page}" if page else "no run is at work, and there is no record")
