"""`python -m harness run`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as RichTable

from harness.cli.options import Device, Plugins, axes, by_metric, floats, load_plugins, with_settings
from harness.errors import UserError

console = Console(stderr=True)


def run(
    methods: Annotated[
        str | None,
        typer.Option(help="Methods, comma-separated; a+b; all. [default: diffcr,tome]", show_default=False),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Zoo model, pipeline folder or hub id. [default: the task's own]", show_default=False),
    ] = None,
    variant: Annotated[str | None, typer.Option(help="Variant of the model's weights, for instance fp16.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a model on the hub.")] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="text-to-image, class-conditional or inpainting. [default: text-to-image]", show_default=False
        ),
    ] = None,
    ratios: Annotated[
        str | None,
        typer.Option(help="Compression ratios. [default: 0.1,0.2,0.3; inpainting: 0.3]", show_default=False),
    ] = None,
    task_setting: Annotated[
        list[str] | None, typer.Option("--task-set", help="NAME=VALUE[,VALUE...] of the task; every value is swept.")
    ] = None,
    mask_area: Annotated[
        str | None, typer.Option(help="Shorthand for --task-set mask_area=..., for inpainting.")
    ] = None,
    binarize: Annotated[
        bool, typer.Option("--binarize", help="Shorthand for --task-set binarize=true: masks are cut at one half.")
    ] = False,
    setting: Annotated[list[str] | None, typer.Option("--set", help="METHOD.NAME=VALUE; may be repeated.")] = None,
    cases: Annotated[int | None, typer.Option(help="Images per point. [default: 64]", show_default=False)] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="evaluation, or calibration: cases apart, to choose settings on. [default: evaluation]",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Sampler steps. [default: the model's own]", show_default=False)
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="CFG scale. [default: the model's own]", show_default=False)
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Images per batch. [default: 16]", show_default=False)] = None,
    metrics: Annotated[str | None, typer.Option(help="Metrics. [default: all that apply]", show_default=False)] = None,
    metric_setting: Annotated[
        list[str] | None,
        typer.Option("--metric-set", help="METRIC[,METRIC...].NAME=VALUE: weights, references; may be repeated."),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Text file with one prompt (or class) per line, or MS-COCO captions as JSON.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with metadata.jsonl: images and captions; for inpainting, masks too.")
    ] = None,
    adapters: Annotated[list[Path] | None, typer.Option(help="Folder of fitted adapters; may be repeated.")] = None,
    match: Annotated[
        str | None,
        typer.Option(help="Tune every method to costs relative to dense: latency=0.9,0.8 or gmacs=0.8."),
    ] = None,
    device: Device = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16. [default: float32]", show_default=False)
    ] = None,
    config_file: Annotated[
        Path | None, typer.Option("--config", help="Sweep as YAML; options given here win over it.")
    ] = None,
    plugin: Plugins = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder. [default: results/runs/<name>]", show_default=False)
    ] = None,
    isolate: Annotated[bool, typer.Option("--isolate", help="Run every point in a process of its own.")] = False,
    fit: Annotated[
        bool,
        typer.Option("--fit", help="Fit adapters that are missing, into the first --adapters (or ./adapters)."),
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A look, not a result: 16 cases, 20 % alone, fewer latency rounds.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and its estimated time, run nothing.")
    ] = False,
) -> None:
    """Sweep methods over compression ratios and write tables, Pareto plots and an image grid.

    A second, identical run does no work again; an interrupted one goes on where it stopped.
    """
    from harness import config

    load_plugins(plugin)
    values: dict[str, Any] = {"cases": 16, "ratios": (0.2,), "rounds": 3} if quick else {}
    if config_file:
        values |= config.read_yaml(config_file)
    given = {
        "methods": methods, "model": model, "task": task, "ratios": floats("--ratios", ratios), "cases": cases,
        "split": split, "steps": steps, "guidance": guidance, "batch": batch, "prompts": prompts, "data": data,
        "device": device, "dtype": dtype, "variant": variant, "revision": revision, "metrics": metrics,
        "adapters": adapters or None,
    }  # fmt: skip
    if match is not None:
        axis, _, budgets = match.partition("=")
        given |= {"match": axis, "budgets": floats("--match AXIS=", budgets or None)}
    asked = [*(task_setting or []), *([f"mask_area={mask_area}"] if mask_area is not None else [])]
    asked += ["binarize=true"] if binarize else []
    if asked:
        values["task_settings"] = {**values.get("task_settings", {}), **axes(asked)}
    if metric_setting:
        values["metric_settings"] = by_metric(values.get("metric_settings", {}), metric_setting)
    values |= {name: value for name, value in given.items() if value is not None}
    sweep = with_settings(config.build(values, str(config_file or "")), setting or [])
    if fit:
        sweep = _fitted(sweep, dry_run)
        if sweep is None:
            return
    _run(sweep, out, dry_run, isolate)


def _fitted(sweep: Any, dry_run: bool) -> Any:
    """The sweep with the folder that missing adapters are fitted into. None: a dry run has listed them instead."""
    from harness.fitting.request import missing

    sweep = sweep.model_copy(update={"adapters": sweep.adapters or (Path("adapters"),)})
    requests = missing(sweep)
    for request in requests:
        names = ", ".join(method.adapter() for method in request.methods)
        console.print(f"{'to fit' if dry_run else 'fitting'}: {names}", highlight=False, markup=False)
        if not dry_run:
            request.run(
                sweep.model, sweep.adapters[0], device=sweep.device, variant=sweep.variant, revision=sweep.revision
            )
    return None if dry_run and requests else sweep


def _run(sweep: Any, out: Path | None, dry_run: bool, isolate: bool) -> None:
    from harness import api

    folder = api.run_folder(sweep, out)
    if dry_run and sweep.match:
        raise UserError("--dry-run knows no plan before the budgets are matched; leave one of them out")
    plans, matches = api.planned(sweep, folder, lambda line: console.print(line, highlight=False, markup=False))
    if dry_run:
        _show_plan(plans, folder)
        return
    table = _execute(plans, folder, isolate, matches)
    table.print(Console(width=None if sys.stdout.isatty() else 120))
    print(f"written to {folder}: tables/results.csv, tables/pareto.md, plots/")
    failed = table.failed()
    points = sum(len(made.points) for made in plans)
    unmet = [one for one in matches if not one.met]
    for one in unmet:
        console.print(f"budget not met: {one}", highlight=False, markup=False)
    if failed or unmet or len(table) < points:
        for record in failed:
            console.print(
                f"{record.outcome}: {record.method} {record.settings}: {record.reason}", highlight=False, markup=False
            )
        if missing := points - len(table):
            console.print(f"{missing} points did not run, because dense failed")
        raise typer.Exit(1)


def _execute(plans: Any, folder: Path, isolate: bool, matches: Any) -> Any:
    from harness import api, engine

    todo = _missing(plans, folder)
    if any(todo):
        _ = plans[0].model.pipeline  # weights that do not load are told before anything is written
    total = sum(engine.images_per_point(made, p) for made, points in zip(plans, todo, strict=True) for p in points)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} images"),
    )
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not total) as bar:
        task = bar.add_task("starting", total=total)

        def progress(what: str, images: int) -> None:
            bar.update(task, description=what, advance=images)

        def finished(record: Any) -> None:
            ratio = "" if record.ratio is None else f" {100 * record.ratio:g} %"
            note = record.outcome if record.outcome == "ok" else f"{record.outcome}: {record.reason}"
            bar.console.print(f"{record.method}{ratio}: {note} ({record.seconds:.0f} s)", highlight=False, markup=False)

        return api.execute(plans, folder, progress, finished, isolate, matches)


def _missing(plans: Any, folder: Path) -> list[list[Any]]:
    """The points to run, plan by plan."""
    from harness.executors import local

    if not (folder / "store.sqlite").exists():
        return [list(made.points) for made in plans]
    with local.open_store(plans[0], folder) as store:
        return [local.todo(made, store) for made in plans]


def _show_plan(plans: Any, folder: Path) -> None:
    from harness import engine

    todo = {point.key for points in _missing(plans, folder) for point in points}
    table = RichTable("point", "settings", "adapter", "state", "seconds", "key", title=f"plan: {folder}")
    total = 0.0
    for made in plans:
        batch = made.cases[: made.sweep.batch]
        with engine.dense_pass(made):
            began = time.monotonic()
            made.task.generate(batch)
            seconds = (time.monotonic() - began) / len(batch)
        for point in made.points:
            cost = engine.images_per_point(made, point) * seconds if point.key in todo else 0.0
            total += cost
            state = "to run" if point.key in todo else "done"
            adapter = point.method.adapter() if point.state else ""
            settings = json.dumps(point.facts["settings"])
            table.add_row(point.label, settings, adapter, state, f"{cost:.0f}", point.key[:8])
    Console().print(table)
    print(
        f"{len(todo)} of {sum(len(made.points) for made in plans)} points to run, {len(plans[0].cases)} cases each, "
        f"{plans[0].task.steps} steps: about {total / 60:.1f} min (from the time of dense images measured now; cheaper "
        "points take less)"
    )
