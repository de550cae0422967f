"""The harness from Python: run a sweep, or put a chosen method onto your own pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness import budgets, config, engine, plan
from harness.attach import attached, check
from harness.backbones.sampler_clock import follow
from harness.compose import method_class
from harness.errors import UserError
from harness.executors import isolated, local
from harness.metric import images_to_uint8
from harness.models.loading import digest_of, wrap
from harness.models.model import Model
from results.analysis.point_names import point_names, variants
from results.files import slug
from results.tables.budgets import write_matched
from results.tables.table import Table

RUNS = Path("results") / "runs"


def run(
    methods: Any = None,
    *,
    out: str | Path | None = None,
    progress: engine.Progress | None = None,
    isolate: bool = False,
    **sweep: Any,
) -> Table:
    """Run a sweep and return its table. `sweep`: the fields of `harness.config.Sweep` (model, ratios, cases, ...).

    Points that the run folder holds already are not run again. With `isolate`, every point has a process of its own.
    Raises UserError for bad input; a point that fails is a row with its reason.
    """
    values = dict(sweep) if methods is None else {"methods": methods, **sweep}
    built = config.build(values)
    folder = run_folder(built, out)
    plans, matches = planned(built, folder)
    return execute(plans, folder, progress or (lambda _what, _images: None), lambda _record: None, isolate, matches)


def run_folder(sweep: config.Sweep, out: str | Path | None) -> Path:
    return Path(out) if out is not None else RUNS / sweep.run_name()


def planned(
    sweep: config.Sweep, folder: Path, told: Callable[[str], None] = lambda _line: None
) -> tuple[tuple[plan.Plan, ...], list[budgets.Match]]:
    """The plans of a sweep, its methods tuned to its budgets where it has some, and what that tuning found."""
    if not sweep.match:
        return plan.make(sweep), []
    _made(folder)
    sweep, matches = budgets.resolved(sweep, folder, told)
    return plan.make(sweep), matches


def _made(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output folder {folder} cannot be made: {error.strerror}; give another --out") from error


def execute(
    plans: Sequence[plan.Plan],
    folder: Path,
    progress: engine.Progress,
    finished: Any,
    isolate: bool = False,
    matches: Sequence[budgets.Match] = (),
) -> Table:
    """Run what is missing of a sweep, then write tables, plots and image grids."""
    _made(folder)
    with local.open_store(plans[0], folder) as store:
        fresh = any(local.todo(made, store) for made in plans)
        run_point = isolated.run_point if isolate else engine.run
        table = Table(local.run(plans, store, folder, progress, finished, run_point))
    if fresh or not (folder / "tables" / "results.csv").exists():
        write_outputs(table, plans, folder)
        if matches:
            write_matched(table.records, [asdict(one) | {"met": one.met} for one in matches], folder)
    return table


def write_outputs(table: Table, plans: Sequence[plan.Plan], folder: Path) -> None:
    """Everything that people look at, from records; and token maps of the highest ratio of each variant."""
    from harness import token_maps
    from results.plots.cost_plot import cost_by, swept
    from results.plots.image_grid import image_grid
    from results.plots.pareto_plot import write_plots

    table.write(folder)
    plots, names = folder / "plots", point_names(table.records)
    write_plots(table, plots)
    for setting in swept(table.records):
        cost_by(table.records, setting, plots / f"cost_by_{slug(setting)}.png")
    kinds = variants(table.records)
    for made in plans:
        points = {point.key: point for point in made.points}
        records = [record for record in table.records if record.key in points]
        highest = {kinds[r.key]: r for r in sorted(records, key=lambda r: r.ratio or 0) if r.usable and r.ratio}
        for record in highest.values():
            token_maps.draw(made, points[record.key], made.cases[0], plots / "maps")
    alike: dict[str, list[plan.Plan]] = {}  # plans whose cases are the same share a grid
    for made in plans:
        alike.setdefault(made.fingerprint["cases"], []).append(made)
    for place, members in enumerate(alike.values()):
        keys = {point.key for made in members for point in made.points}
        made = members[0]
        rows: list[tuple[str, Sequence[Any]]] = [
            (name, list(images_to_uint8(i))) for name, i in made.task.shown(made.cases)
        ]
        records = [record for record in table.records if record.key in keys and record.images]
        rows += [(names[r.key], [folder / image for image in r.images]) for r in records]
        if records:
            name = "images.png" if place == 0 else f"images-{place + 1}.png"
            image_grid(rows, [case.prompt for case in made.cases], plots / name)


_ON: dict[int, ExitStack] = {}


def apply(pipeline: Any, method: str, *, adapter: str | Path | None = None, **settings: Any) -> None:
    """Make a diffusers pipeline cheaper, in place: `harness.apply(pipeline, "diffcr", ratio=0.2)`.

    Adapter states are looked for beside the pipeline's own folder, or in the folder `adapter`. `remove` takes the
    method back, bit for bit. Raises UserError for an unknown method or setting, a pipeline that no backbone serves, a
    missing adapter, or a pipeline that carries a method already.
    """
    if id(pipeline) in _ON:
        raise UserError("this pipeline carries a method already; call harness.remove(pipeline) first")
    spec = config.MethodSpec(name=method, settings=settings)
    cls = method_class(method)
    (chosen,) = config.settings_of(spec, (settings.get("ratio", cls.Settings().model_dump().get("ratio", 0.0)),))
    model = _wrapped(pipeline, adapter)
    if refusal := check(chosen, model.family):
        raise UserError(f"method {method!r} cannot run on this pipeline: {refusal}")
    state = plan.state_of(chosen, model)[0]
    with ExitStack() as stack:
        stack.enter_context(follow(model.backbone, pipeline))
        stack.enter_context(attached(model.backbone, chosen, state))
        _ON[id(pipeline)] = stack.pop_all()


def remove(pipeline: Any) -> None:
    """Take back what `apply` did; nothing happens where nothing was applied."""
    if stack := _ON.pop(id(pipeline), None):
        stack.close()


@contextmanager
def applied(pipeline: Any, method: str, **settings: Any) -> Iterator[None]:
    """`apply` inside a `with` block."""
    apply(pipeline, method, **settings)
    try:
        yield
    finally:
        remove(pipeline)


def _wrapped(pipeline: Any, folder: str | Path | None) -> Model:
    """The pipeline with the adapter folders that belong to it."""
    home = str(getattr(pipeline, "name_or_path", None) or pipeline.config.get("_name_or_path") or "")
    places = [Path(folder)] if folder is not None else []
    if home:
        places += [Path(home) / "adapters", Path(home).parent.parent / "adapters"]
    digest = digest_of(Path(home)) if home and Path(home).is_dir() else ""
    return wrap(home or "pipeline", pipeline, digest, tuple(place for place in places if place.is_dir()))
