"""`python -m harness`: run, fit, train, list."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as RichTable

from harness import registry
from harness.errors import UserError, unknown

# Before torch loads: its profiler and allocator would write notes of their own between our lines.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Compare methods that make Diffusion Transformers cheaper: quality against FLOPs, latency and memory.",
)
console = Console(stderr=True)

Plugins = Annotated[
    list[Path] | None, typer.Option("--plugin", help="Python file that registers more; may be repeated.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. [default: cpu]", show_default=False)]


@app.command()
def run(
    methods: Annotated[
        str | None, typer.Option(help="Methods, comma-separated. [default: diffcr,tome]", show_default=False)
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Zoo model or pipeline folder. [default: shapes]", show_default=False)
    ] = None,
    task: Annotated[str | None, typer.Option(help="[default: text-to-image]", show_default=False)] = None,
    ratios: Annotated[
        str | None, typer.Option(help="Compression ratios. [default: 0.1,0.2,0.3]", show_default=False)
    ] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="METHOD.NAME=VALUE; may be repeated.")] = None,
    cases: Annotated[int | None, typer.Option(help="Images per point. [default: 64]", show_default=False)] = None,
    steps: Annotated[
        int | None, typer.Option(help="Sampler steps. [default: the model's own]", show_default=False)
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="CFG scale. [default: the model's own]", show_default=False)
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Images per batch. [default: 16]", show_default=False)] = None,
    metrics: Annotated[str | None, typer.Option(help="Metrics. [default: all that apply]", show_default=False)] = None,
    prompts: Annotated[Path | None, typer.Option(help="Text file with one prompt per line.")] = None,
    adapters: Annotated[list[Path] | None, typer.Option(help="Folder of fitted adapters; may be repeated.")] = None,
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
    quick: Annotated[bool, typer.Option("--quick", help="16 cases and fewer latency rounds.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and its estimated time, run nothing.")
    ] = False,
) -> None:
    """Sweep methods over compression ratios and write tables, Pareto plots and an image grid.

    A second, identical run does no work again; an interrupted one goes on where it stopped.
    """
    from harness import config

    for path in plugin or []:
        registry.load_plugin(path)
    values: dict[str, Any] = {"cases": 16, "rounds": 4} if quick else {}
    if config_file:
        values |= config.read_yaml(config_file)
    given = {
        "methods": methods, "model": model, "task": task, "ratios": _floats("--ratios", ratios), "cases": cases,
        "steps": steps, "guidance": guidance, "batch": batch, "prompts": prompts, "device": device, "dtype": dtype,
        "metrics": metrics.split(",") if metrics is not None else None, "adapters": adapters or None,
    }  # fmt: skip
    values |= {name: value for name, value in given.items() if value is not None}
    sweep = _with_settings(config.build(values, str(config_file or "")), setting or [])
    _run(sweep, out, dry_run)


def _run(sweep: Any, out: Path | None, dry_run: bool) -> None:
    from harness import api, plan

    made = plan.make(sweep)
    folder = api.run_folder(made, out)
    if dry_run:
        _show_plan(made, folder)
        return
    table = _execute(made, out)
    table.print(Console(width=None if sys.stdout.isatty() else 120))
    print(f"written to {folder}: tables/results.csv, tables/pareto.md, plots/")
    failed = table.failed()
    dense = table.records[0] if table.records else None
    if failed or dense is None or len(table) < len(made.points):
        for record in failed:
            console.print(f"failed: {record.method} {record.settings}: {record.reason}", highlight=False, markup=False)
        if missing := len(made.points) - len(table):
            console.print(f"{missing} points did not run, because dense failed")
        raise typer.Exit(1)


def _execute(made: Any, out: Path | None) -> Any:
    from harness import api, engine

    todo = _missing(made, api.run_folder(made, out))
    total = sum(engine.images_per_point(made, point) for point in todo)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} images"),
    )
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not todo) as bar:
        task = bar.add_task("starting", total=total)

        def progress(what: str, images: int) -> None:
            bar.update(task, description=what, advance=images)

        def finished(record: Any) -> None:
            ratio = "" if record.ratio is None else f" {100 * record.ratio:g} %"
            note = record.outcome if record.outcome == "ok" else f"failed: {record.reason}"
            bar.console.print(f"{record.method}{ratio}: {note} ({record.seconds:.0f} s)", highlight=False, markup=False)

        return api.execute(made, out, progress, finished)


def _missing(made: Any, folder: Path) -> list[Any]:
    from harness.executors import local

    if not (folder / "store.sqlite").exists():
        return list(made.points)
    with local.open_store(made, folder) as store:
        return local.todo(made, store)


def _show_plan(made: Any, folder: Path) -> None:
    from harness import engine

    todo = {point.key for point in _missing(made, folder)}
    with engine.dense_pass(made):
        began = time.monotonic()
        made.task.generate(made.cases[: made.sweep.batch])
        seconds = (time.monotonic() - began) / len(made.cases[: made.sweep.batch])
    table = RichTable("method", "settings", "adapter", "state", "seconds", "key", title=f"plan: {folder}")
    total = 0.0
    for point in made.points:
        cost = engine.images_per_point(made, point) * seconds if point.key in todo else 0.0
        total += cost
        state = "to run" if point.key in todo else "done"
        adapter = point.method.adapter() if point.state else ""
        table.add_row(
            point.method.name, json.dumps(point.facts["settings"]), adapter, state, f"{cost:.0f}", point.key[:8]
        )
    Console().print(table)
    print(
        f"{len(todo)} of {len(made.points)} points to run, {len(made.cases)} cases each, {made.task.steps} steps: "
        f"about {total / 60:.1f} min (from {seconds:.2f} s per dense image measured now; cheaper points take less)"
    )


@app.command()
def fit(
    method: Annotated[str, typer.Argument(help="Method to fit.")],
    model: Annotated[str, typer.Option(help="Model to fit it on.")] = "shapes",
    ratio: Annotated[
        float | None, typer.Option(help="Highest compression ratio; the fit climbs there in steps of 10 %.")
    ] = None,
    axes: Annotated[str | None, typer.Option(help="Shorthand for --set axes=..., where the method has it.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE of the method, its fit, or the loop.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the adapters.")] = Path("adapters"),
    device: Device = None,
    plugin: Plugins = None,
) -> None:
    """Fit a method's routers, ratios and LoRA on a model. An interrupted fit goes on where it stopped."""
    from accelerate import Accelerator

    from harness.config import MethodSpec, settings_of
    from harness.models import load
    from harness.training.fit import FitOptions, data_for
    from harness.training.fit import fit as run_fit

    for path in plugin or []:
        registry.load_plugin(path)
    cls = registry.methods.get(method)
    pairs = dict(_pair(text) for text in setting or []) | ({"axes": axes} if axes else {})
    groups: dict[Any, dict[str, Any]] = {cls.Settings: {}, cls.FitSettings: {}, FitOptions: {}}
    for name, value in pairs.items():
        owner = next((kind for kind in groups if name in kind.model_fields), None)
        if owner is None:
            raise unknown("setting", name, {field for kind in groups for field in kind.model_fields})
        groups[owner][name] = value
    ratios = _stages(ratio) if "ratio" in cls.Settings.model_fields else (0.0,)
    spec = MethodSpec(name=method, settings={k: v for k, v in groups[cls.Settings].items() if k != "ratio"})
    objects = settings_of(spec, ratios)
    objects = list({o.adapter(): o for o in objects}.values())
    options = _validated(FitOptions, groups[FitOptions])
    own = _validated(cls.FitSettings, groups[cls.FitSettings])
    loaded = load(model, device=device or "cpu")
    trains = objects[0].fitting(loaded.backbone, 20, own).trains
    identity = json.dumps([method, spec.settings, list(ratios), options.model_dump(), own.model_dump(), loaded.digest])
    work = Path("results") / "runs" / "fits" / f"{method}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
    paths = run_fit(
        objects, loaded, options, data_for(loaded, options, trains), out, work, own=own,
        accelerator=Accelerator(cpu=(device or "cpu") == "cpu"),
    )  # fmt: skip
    print("\n".join(f"wrote {path}" for path in paths))


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="Zoo model to train.")] = "shapes",
    work: Annotated[Path, typer.Option(help="Folder for checkpoints; training goes on from what it holds.")] = Path(
        "train"
    ),
    out: Annotated[
        Path | None, typer.Option(help="Where the weights go. [default: the package's own folder]", show_default=False)
    ] = None,
    device: Device = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE of the recipe, for instance steps=20000.")
    ] = None,
) -> None:
    """Make a zoo model from nothing but its renderer."""
    from accelerate import Accelerator

    if name != "shapes":
        raise unknown("zoo model", name, ["shapes"])
    from harness.zoo.shapes import judge, recipe

    chosen = _validated(recipe.Recipe, dict(_pair(text) for text in setting or []))
    recipe.make(chosen, work, out or judge.WEIGHTS.parent, Accelerator(cpu=(device or "cpu") == "cpu"))


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="methods, tasks, models or metrics")],
    plugin: Plugins = None,
) -> None:
    """List what is registered, with its settings."""
    for path in plugin or []:
        registry.load_plugin(path)
    kinds = {"methods": registry.methods, "tasks": registry.tasks, "metrics": registry.metrics}
    if what == "models":
        from harness.models import names

        print("\n".join(names()))
        return
    if what not in kinds:
        raise unknown("kind", what, [*kinds, "models"])
    table = RichTable("name", "what it is", "settings", title=what)
    for name in kinds[what]:
        cls = kinds[what].get(name)
        about = " ".join((cls.__doc__ or "").split())
        fields = getattr(getattr(cls, "Settings", None), "model_fields", {})
        table.add_row(name, about, "\n".join(f"{key}: {field.description or ''}" for key, field in fields.items()))
    Console().print(table)


def _floats(name: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(f"{name} expects numbers separated by commas, got {text!r}") from error


def _stages(ratio: float | None) -> tuple[float, ...]:
    """Rising targets in steps of 10 %, the last one being `ratio`."""
    top = 0.3 if ratio is None else ratio
    if not 0 < top <= 0.9:
        raise UserError(f"--ratio must lie in (0, 0.9], got {top:g} (0.2 means 20 %)")
    tenths = [i / 10 for i in range(1, 10) if i / 10 < top - 1e-9]
    return (*tenths, top)


def _pair(text: str) -> tuple[str, Any]:
    import yaml

    name, found, value = text.partition("=")
    if not found or not name:
        raise UserError(f"--set expects NAME=VALUE, got {text!r}")
    return name.strip(), yaml.safe_load(value)


def _with_settings(sweep: Any, texts: list[str]) -> Any:
    specs = {spec.name: spec for spec in sweep.methods}
    for text in texts:
        name, value = _pair(text)
        method, dot, setting = name.partition(".")
        if not dot or method not in specs:
            raise UserError(
                f"--set expects METHOD.NAME=VALUE with a method of this sweep ({', '.join(specs)}), got {text!r}"
            )
        specs[method] = specs[method].model_copy(update={"settings": {**specs[method].settings, setting: value}})
    return sweep.model_copy(update={"methods": tuple(specs.values())}) if texts else sweep


def _validated(kind: Any, values: dict[str, Any]) -> Any:
    from pydantic import TypeAdapter, ValidationError

    from harness.config import one_line

    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise UserError(one_line(error, kind)) from error


def main() -> None:
    """Entry point: user errors end in one line and exit code 2."""
    warnings.filterwarnings("ignore", module=r"(?!harness|methods|tasks|results)")
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: finished points are kept; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
