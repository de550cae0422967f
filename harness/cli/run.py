"""`python -m harness run`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.endings import CLOSEST, DEBUG, FAILED
from harness.cli.grouped import CONTROL, MEASURED, METHODS, OUTPUT, WORK
from harness.cli.options import Debug, Isolate, Plugins, PointTimeout, axes, by_metric, options_of, with_settings
from harness.errors import UserError
from harness.shards import Shard
from harness.sweep import Sweep


class Executor(StrEnum):
    """Where points run."""

    local = "local"
    ray = "ray"


class Plots(StrEnum):
    """Which Pareto plots are drawn."""

    overview = "overview"
    all = "all"


@options_of(Sweep, skip=("task_settings", "metric_settings", "budgets"))
def run(
    given: dict[str, Any],
    *,
    task_setting: Annotated[
        list[str] | None,
        typer.Option(
            "--task-set", help="NAME=VALUE[,VALUE...] of the task; every value is swept.", rich_help_panel=WORK
        ),
    ] = None,
    mask_area: Annotated[
        str | None, typer.Option(help="Shorthand for --task-set mask_area=..., for inpainting.", rich_help_panel=WORK)
    ] = None,
    binarize: Annotated[
        bool,
        typer.Option(
            "--binarize",
            help="Shorthand for --task-set binarize=true: masks are cut at one half.",
            rich_help_panel=WORK,
        ),
    ] = False,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="METHOD.NAME=VALUE; may be repeated.", rich_help_panel=METHODS)
    ] = None,
    metric_setting: Annotated[
        list[str] | None,
        typer.Option(
            "--metric-set",
            help="METRIC[,METRIC...].NAME=VALUE: weights, references; may be repeated.",
            rich_help_panel=MEASURED,
        ),
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option("--config", help="Sweep as YAML; options given here win over it.", rich_help_panel=CONTROL),
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
            help="Name of the run folder below results/runs. [default: made from the sweep]",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", help="Take no finished points over from the run folders beside this one.", rich_help_panel=OUTPUT
        ),
    ] = False,
    isolate: Isolate = False,
    point_timeout: PointTimeout = None,
    shard: Annotated[
        str | None,
        typer.Option(
            help="NUMBER/OF: run this part of the points alone, for instance 3/8; see `merge`.", rich_help_panel=CONTROL
        ),
    ] = None,
    executor: Annotated[
        Executor,
        typer.Option(
            help="local: in this process; ray: on the workers of a Ray cluster, see docs/cluster.md.",
            rich_help_panel=CONTROL,
        ),
    ] = Executor.local,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Of the Ray cluster. [default: one on this machine, for this run alone]",
            show_default=False,
            rich_help_panel=CONTROL,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Workers at once, each with OMP_NUM_THREADS processors. [default: as many as there is room for]",
            show_default=False,
            rich_help_panel=CONTROL,
        ),
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            help="GPUs of each worker, or a share of one. [default: 1 with --device cuda]",
            show_default=False,
            rich_help_panel=CONTROL,
        ),
    ] = None,
    plots: Annotated[
        Plots,
        typer.Option(
            help="overview: the headline metric against GMACs and latency; all: every metric and cost, too.",
            rich_help_panel=OUTPUT,
        ),
    ] = Plots.overview,
    fit: Annotated[
        bool,
        typer.Option(
            "--fit",
            help="Fit adapters that are missing, into the first --adapters (or ./adapters).",
            rich_help_panel=METHODS,
        ),
    ] = False,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="A smoke test, not for reporting: 16 images, 20 % alone, fewer rounds.",
            rich_help_panel=CONTROL,
        ),
    ] = False,
    debug: Debug = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the plan and its estimated time, run nothing.", rich_help_panel=CONTROL),
    ] = False,
) -> None:
    """Sweep methods over compression ratios and write tables, Pareto plots and an image grid.

    A second, identical run does no work again; an interrupted one goes on where it stopped. Exit codes: 0, all points
    ran (and met their budgets); 1, points failed; 2, bad input; 4, all ran, and some do not meet a budget.
    """
    asked = [*(task_setting or []), *([f"mask_area={mask_area}"] if mask_area is not None else [])]
    asked += ["binarize=true"] if binarize else []
    given |= {"task_settings": axes(asked)} if asked else {}
    given |= {"metric_settings": by_metric(metric_setting)} if metric_setting else {}
    from harness import runner
    from harness.cli.progress import Bar, console
    from harness.executors import cluster as clusters

    cluster = clusters.of_options(executor.value, address, workers, gpus_per_worker, isolate)
    part = None if shard is None else Shard.parse(shard)
    sweep = with_settings(runner.sweep_of(given, config=config_file, plugins=plugin or (), quick=quick), setting or [])
    folder = runner.run_folder(sweep, out, name, part)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False)

    if dry_run:
        _dry_run(sweep, folder, fit, part, fresh)
        return
    with Bar(debug=debug or DEBUG.get()) as bar:
        table = runner.run_sweep(
            sweep,
            folder,
            listener=bar,
            fit=fit,
            isolate=isolate,
            point_timeout=point_timeout,
            fresh=fresh,
            shard=part,
            all_plots=plots is Plots.all,
            cluster=cluster,
        )
    _report(table, folder, say)


def _dry_run(sweep: Sweep, folder: Path, fit: bool, part: Shard | None, fresh: bool) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable

    from harness import runner

    if fit and runner.fits_missing(sweep, print):  # commands to copy: no line breaks of the console's
        return
    if sweep.match:
        runner.matchable(sweep)
        raise UserError("--dry-run knows no plan before the budgets are matched; leave one of them out")
    plans, _ = runner.planned(sweep, folder)
    rows = runner.dry_run(plans, folder, shard=part, fresh=fresh)
    table = RichTable("point", "settings", "adapter", "state", "seconds", "key", title=f"plan: {folder}")
    for row in rows:
        state = "done" if row["done"] else "to run"
        settings = json.dumps(row["settings"])
        table.add_row(row["label"], settings, row["adapter"], state, f"{row['seconds']:.0f}", row["key"][:8])
    Console().print(table)
    todo, total = sum(not row["done"] for row in rows), sum(row["seconds"] for row in rows)
    opened = plans[0].opened
    print(
        f"{todo} of {len(rows)} points to run, {len(opened.cases)} cases each, {opened.workload.steps} steps: about "
        f"{total / 60:.1f} min (from the time of dense images measured now; cheaper points take less)"
    )


def _report(table: Any, folder: Path, say: Any) -> None:
    """The table and where everything lies. Exit code 1 where something failed or did not run, 4 where a budget was not
    met."""
    from harness.cli import terminal
    from results.analysis.budgets import missed

    table.print(terminal.tables())
    print(f"written to {folder}: tables/verdict.md, tables/results.csv, tables/pareto.md, plots/")
    unmet = [one for one in table.matches if not one["met"]]
    for one in unmet:
        say(f"budget not met: {one['text']}")
    lost = list(missed(table.matches, table.records))
    for one, here in lost:
        say(
            f"budget missed: {one['method']} met {one['axis']} {one['budget']:g} in tuning and has {here.value:.3f} "
            f"[{here.low:.3f}, {here.high:.3f}] on the evaluation's cases"
        )
    for record in table.failed():
        say(f"{record.outcome}: {record.method} {record.settings}: {record.reason}")
    if table.not_run:
        say(f"{table.not_run} points did not run, because dense failed")
    if table.failed() or table.not_run:
        raise typer.Exit(FAILED)
    if unmet or lost:
        raise typer.Exit(CLOSEST)
