"""`python -m harness report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import writable
from harness.errors import UserError


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; those of several workloads stand apart.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the report. [default: report, in the first run folder]", show_default=False),
    ] = None,
    latex: Annotated[
        bool,
        typer.Option("--latex", help="Write tables for papers, too: tables.tex (booktabs), tables.md and tables.csv."),
    ] = False,
) -> None:
    """Draw a report for people from finished runs: verdict, fronts, pictures, costs and records, in one folder."""
    from results.report.write import ReportError, write_report
    from results.run_folder import RunFolder
    from results.store import StoreError

    try:
        for run in runs:
            RunFolder.open(run).close()
        writable(out if out is not None else runs[0] / "report")
        index = write_report(runs, out, paper=latex)
    except (StoreError, ReportError) as error:
        raise UserError(str(error)) from error
    print(f"written to {index}")
