"""The steps of a run: its sweep, its folder, fits, plans, budgets, execution. `harness.api` and the command line put
them together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness import plan, registry
from harness.budgets import resolved
from harness.config import build, read_yaml
from harness.engine import OpenWorkload
from harness.errors import UserError
from harness.executors import cluster as clusters
from harness.executors.execute import Listener, Part, execute, missing
from harness.ladders import ladders
from harness.matches import Match
from harness.measure import energy
from harness.models import Model, adapters
from harness.profiling.workload import plans as profile_plans
from harness.shards import Shard
from harness.sweep import Profile, Sweep
from results.at_work import at_work
from results.run import Run
from results.run_folder import STORE, RunFolder
from results.store import StoreError
from results.taken_over import beside

RUNS = Path("results") / "runs"
FolderOrFile = str | Path


def sweep_of(
    given: Mapping[str, Any],
    *,
    config: FolderOrFile | None = None,
    plugins: FolderOrFile | Sequence[FolderOrFile] = (),
    quick: bool = False,
) -> Sweep:
    """The validated sweep: what is given wins over the sweep file, which wins over `quick`. Raises UserError."""
    for path in [plugins] if isinstance(plugins, (str, Path)) else plugins:
        registry.load_plugin(Path(path))
    values = read_yaml(Path(config)) if config is not None else {}
    for word in ("task_settings", "metric_settings"):
        if word in given and isinstance(values.get(word), dict):
            given = {**given, word: _merged(values[word], given[word])}
    return build({"quick": quick, **values, **given}, str(config or ""))


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(below)
    for name, value in above.items():
        both = isinstance(value, Mapping) and isinstance(out.get(name), Mapping)
        out[name] = {**out[name], **value} if both else value
    return out


def run_folder(
    request: Sweep | Profile, out: FolderOrFile | None, name: str | None = None, shard: Shard | None = None
) -> Path:
    """Where a run goes: each shard into a folder of its own unless `out` names one. Raises UserError for both an `out`
    and a `name`, and for a name that is a path."""
    mine = "" if shard is None else f"-{shard.number}of{shard.of}"
    if name is not None:
        if out is not None:
            raise UserError("give --name or --out, not both: --name X is --out results/runs/X")
        if not name or Path(name).name != name or name in (".", ".."):
            raise UserError(f"--name expects a plain folder name, got {name!r}; use --out for a path")
        return RUNS / f"{name}{mine}"
    if out == "":
        raise UserError("--out is empty; expected a folder")
    return Path(out) if out is not None else RUNS / f"{request.run_name()}{mine}"


def run_sweep(
    sweep: Sweep,
    folder: Path,
    *,
    listener: Listener,
    fit: bool = False,
    isolate: bool = False,
    point_timeout: float | None = None,
    fresh: bool = False,
    shard: Shard | None = None,
    all_plots: bool = False,
    cluster: clusters.Cluster | None = None,
) -> Run:
    """Fit what is missing (where asked to), tune to budgets (where there are some), plan and run. The model is loaded
    once. shard: which part of the points to run. all_plots: one for every metric and cost. cluster: where points
    run, if not here; fits and budgets are the affair of this process. Raises UserError."""
    if cluster is not None:
        cluster.gpus(sweep.device)  # before anything is fitted
    if shard is not None and (sweep.match or "").startswith("latency"):
        raise UserError(
            "--shard would tune each part to latencies of its own: give --match gmacs, or run all of it on one machine"
        )
    if fit:
        sweep = fitted(sweep, listener.say)
    else:
        _told_of_missing(sweep, listener.say)
    if sweep.match:  # before anything is sought for it
        held_by_another(folder, sweep.shared())
        made_folder(folder)
    with at_work(folder) if sweep.match else nullcontext():  # what is sought is wanted until points rest on it
        plans, matches = planned(sweep, folder, listener.say)
        done = execute(
            _parts(plans, shard),
            sweep.shared(),
            folder,
            listener=listener,
            isolate=isolate,
            point_timeout=point_timeout,
            fresh=fresh,
            all_plots=all_plots,
            cluster=cluster,
        )
    done.matches = tuple(asdict(one) | {"met": one.met, "text": str(one)} for one in matches)
    return done


def run_profile(
    request: Profile,
    folder: Path,
    *,
    listener: Listener | None = None,
    isolate: bool = False,
    point_timeout: float | None = None,
    fresh: bool = False,
) -> Run:
    """Every method at every batch and size, dense first: a second, identical profile measures nothing again. Raises
    UserError."""
    parts = profile_plans(request)
    device = parts[0][0].on.device
    if device.type == "cuda" and listener is not None and (reason := energy.absent(device)):
        listener.say(reason)
    return execute(
        parts, request.shared(), folder, listener=listener, isolate=isolate, point_timeout=point_timeout, fresh=fresh
    )


def fitted(sweep: Sweep, say: Callable[[str], None]) -> Sweep:
    """The sweep with the folder that adapters it lacks are fitted into, and these fitted. Raises UserError."""
    sweep, requests, model = _lacking(sweep)
    if requests and not model.brings_data:
        names = ", ".join(method.adapter() for request in requests for method in request.methods)
        raise UserError(
            f"model {model.name!r} brings no training data, so that --fit cannot make {names}; fit each by itself with "
            "--data FOLDER, or --data self --prompts FILE: `run --fit --dry-run` lists the commands"
        )
    for request in requests:
        say(f"fitting: {', '.join(method.adapter() for method in request.methods)}")
        request.run(sweep.model, sweep.adapters[0], device=sweep.device, variant=sweep.variant, revision=sweep.revision)
    return sweep


def fits_missing(sweep: Sweep, say: Callable[[str], None]) -> bool:
    """Whether the sweep lacks adapters, which are named, each with the command that fits it by itself."""
    sweep, requests, model = _lacking(sweep)
    for method in (method for request in requests for method in request.methods):
        command = f"{adapters.fit_command(method, model)} --out {sweep.adapters[0]}"
        say(f"to fit: {method.adapter()}: {command}")
    return bool(requests)


def _lacking(sweep: Sweep) -> tuple[Sweep, list[Any], Model]:
    from harness.fitting.request import missing as missing_fits  # accelerate is slow to import

    sweep = sweep.model_copy(update={"adapters": sweep.adapters or (Path("adapters"),)})
    model = plan.load_model(sweep)
    return sweep, missing_fits(sweep, model), model


def planned(
    sweep: Sweep, folder: Path, say: Callable[[str], None] = lambda _line: None
) -> tuple[tuple[plan.Plan, ...], list[Match]]:
    """The plans of a sweep, its methods tuned to its budgets where it has some, and what that tuning found."""
    model: Model = plan.load_model(sweep)
    if not sweep.match:
        return plan.make(sweep, model), []
    sweep, matches = resolved(sweep, folder, model, say)
    return plan.make(sweep, model), matches


def matchable(sweep: Sweep) -> None:
    """Raises UserError where the methods of a sweep cannot be tuned to its budgets: no adapters, or no strength."""
    ladders(sweep, plan.load_model(sweep))


def held_by_another(folder: Path, shared: Mapping[str, Any]) -> None:
    """Raises UserError, before anything is written, for a run folder of another workload than `shared`."""
    if not (folder / STORE).is_file():
        return
    try:
        RunFolder.check(folder, shared)
    except StoreError as error:
        raise UserError(str(error)) from error


def made_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output folder {folder} cannot be made: {error.strerror}; give another --out") from error


def _parts(plans: Sequence[plan.Plan], shard: Shard | None) -> list[Part]:
    parts: list[Part] = [(planned.opened, planned.points) for planned in plans]
    if shard is None:
        return parts
    some = shard.of_points([points for _, points in parts])
    return [(opened, mine) for (opened, _), mine in zip(parts, some, strict=True) if mine]


def _told_of_missing(sweep: Sweep, say: Callable[[str], None]) -> None:
    for folder in sweep.adapters:
        if not folder.exists():
            say(f"warning: adapters folder {folder} does not exist; bundled adapters run, where there are some")


def dry_run(
    plans: Sequence[plan.Plan], folder: Path, *, shard: Shard | None = None, fresh: bool = False
) -> list[dict[str, Any]]:
    """What would run: for each point its label, settings, adapter, whether it is done, here or, unless `fresh`, in a
    folder beside this one, key, and seconds, estimated from the time of dense images measured now (cheaper points take
    less). shard: of which part alone."""
    rows = []
    parts = _parts(plans, shard)
    for (opened, every), points in zip(parts, missing(parts, folder), strict=True):
        done = {} if fresh else beside(folder, [point.key for point in points])
        todo = {point.key for point in points} - done.keys()
        seconds = opened.seconds_per_image() if todo and isinstance(opened, OpenWorkload) else 0.0
        for point in every:
            left = opened.work_per_point * seconds if point.key in todo else 0.0
            rows.append(
                {"label": point.label, "settings": point.settings, "adapter": point.adapter[:8],
                 "done": point.key not in todo, "seconds": left, "key": point.key}
            )  # fmt: skip
    return rows
