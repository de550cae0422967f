"""`python -m harness profile`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.endings import DEBUG
from harness.cli.grouped import METHODS, OUTPUT
from harness.cli.options import (
    Debug,
    Isolate,
    Plugins,
    PointTimeout,
    load_plugins,
    options_of,
    with_settings,
    writable,
)
from harness.sweep import Profile, validated


@options_of(Profile)
def profile(
    given: dict[str, Any],
    *,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="METHOD.NAME=VALUE; may be repeated.", rich_help_panel=METHODS)
    ] = None,
    plugin: Plugins = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run folder; points are added to one that holds the same workload. [default: results/runs/NAME]",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the run folder below results/runs. [default: made from the options]",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Further CSV file to write.", rich_help_panel=OUTPUT)] = None,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", help="Take no finished points over from the run folders beside this one.", rich_help_panel=OUTPUT
        ),
    ] = False,
    isolate: Isolate = False,
    point_timeout: PointTimeout = None,
    debug: Debug = False,
) -> None:
    """Measure what methods cost on one denoiser step: GMACs, latency against dense, memory, energy, share by part.

    A second, identical profile measures nothing again; an interrupted one goes on where it stopped.
    """
    load_plugins(plugin)
    from rich.console import Console

    from harness import runner
    from harness.cli.progress import Bar
    from results.tables import step_costs

    if out is not None and out.suffix == ".csv":
        csv, out = out, None
        print("note: --out is a run folder now; give --csv FILE.csv for a CSV file of its own")
    request = with_settings(validated(Profile, given), setting or [])
    folder = runner.run_folder(request, out, name)
    if csv is not None:
        writable(csv.parent)
    with Bar("steps", debug or DEBUG.get()) as bar:
        table = runner.run_profile(
            request, folder, listener=bar, isolate=isolate, point_timeout=point_timeout, fresh=fresh
        )
    table.print(Console())
    if csv is not None:
        step_costs.to_csv(table, csv)
    print(f"written to {folder}: tables/profile.csv{f'; {csv}' if csv is not None else ''}")
    if table.failed() or table.not_run:
        raise typer.Exit(1)
