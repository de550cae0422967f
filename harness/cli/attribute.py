"""`python -m harness attribute`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.grouped import METHODS, OUTPUT
from harness.cli.options import Isolate, Plugins, PointTimeout, listed, options_of, pair, whole_numbers
from harness.sweep import Sweep

_LEFT_OUT = {"methods", "ratios", "match", "budgets", "task_settings", "metric_settings"}


@options_of(Sweep, skip=_LEFT_OUT)
def attribute(
    given: dict[str, Any],
    *,
    method: Annotated[str, typer.Argument(help="A method that routes: diffcr, uniform.")],
    ratio: Annotated[str, typer.Option(help="Compression ratios, comma-separated.", rich_help_panel=METHODS)] = "0.3",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE of the method; may be repeated.", rich_help_panel=METHODS),
    ] = None,
    training_seeds: Annotated[
        str,
        typer.Option(
            help="Training seeds of the adapters, comma-separated, taken together. [default: one, 0]",
            show_default=False,
            rich_help_panel=METHODS,
        ),
    ] = "",
    controls: Annotated[
        str,
        typer.Option(
            help="Names of the controls to run, comma-separated. [default: all]",
            show_default=False,
            rich_help_panel=METHODS,
        ),
    ] = "",
    refit: Annotated[
        bool,
        typer.Option(
            "--refit",
            help="Also controls that are fitted as such; missing adapters are fitted first.",
            rich_help_panel=METHODS,
        ),
    ] = False,
    plugin: Plugins = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run folder. [default: results/runs/attribute-METHOD-...]", show_default=False, rich_help_panel=OUTPUT
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the run folder below results/runs.", show_default=False, rich_help_panel=OUTPUT),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", help="Take no finished points over from the run folders beside this one.", rich_help_panel=OUTPUT
        ),
    ] = False,
    isolate: Isolate = False,
    point_timeout: PointTimeout = None,
) -> None:
    """Say what each axis of a method (tokens, layers, timesteps, training) is worth: the method beside controls of
    equal cost that destroy one axis each, paired by image."""
    from harness import runner
    from harness.attribution import run_attribution, run_folder
    from harness.cli.progress import Bar

    seeds = whole_numbers(training_seeds, "--training-seeds")
    settings = dict(pair(text) for text in setting or [])
    given |= {"methods": [{"name": method, "settings": settings}], "ratios": ratio}
    sweep = runner.sweep_of(given, plugins=plugin or ())
    folder = run_folder(sweep, out, name)
    with Bar() as bar:
        found = run_attribution(
            sweep, folder, training_seeds=seeds, controls=listed(controls), refit=refit, isolate=isolate,
            point_timeout=point_timeout, fresh=fresh, listener=bar,
        )  # fmt: skip
    print((folder / "tables" / "attribution.md").read_text(encoding="utf-8"))
    print(f"written to {folder}: tables/attribution.csv, tables/attribution.md, plots/attribution.png")
    if found.failed() or found.not_run:
        raise typer.Exit(1)
