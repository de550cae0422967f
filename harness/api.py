"""The harness from Python, in the words of the command line: run a sweep, profile a denoiser step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from harness import registry
from harness.errors import UserError
from harness.executors import cluster as clusters
from harness.executors.execute import Listener, Told
from harness.runner import FolderOrFile, run_folder, run_profile, run_sweep, sweep_of
from harness.shards import Shard
from harness.sweep import Profile, Sweep, validated
from results.run import Run

Methods = str | Sequence[str | Mapping[str, Any]]
Plots = Literal["overview", "all"]
"""Which Pareto plots are drawn."""


def run(
    methods: Methods | None = None,
    *,
    model: str | None = None,
    task: str | None = None,
    ratios: str | Sequence[float] | None = None,
    task_settings: Mapping[str, Any] | None = None,
    cases: int | None = None,
    seed: int | None = None,
    split: Literal["evaluation", "calibration"] | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    batch: int | None = None,
    rounds: int | None = None,
    prompts: FolderOrFile | None = None,
    data: FolderOrFile | None = None,
    mode: str | Sequence[str] | None = None,
    metrics: str | Sequence[str] | None = None,
    metric_settings: Mapping[str, Mapping[str, Any]] | None = None,
    match: str | None = None,
    budgets: str | Sequence[float] | None = None,
    adapters: FolderOrFile | Sequence[FolderOrFile] | None = None,
    device: str | None = None,
    dtype: str | None = None,
    variant: str | None = None,
    revision: str | None = None,
    config: FolderOrFile | None = None,
    plugins: FolderOrFile | Sequence[FolderOrFile] = (),
    quick: bool = False,
    fit: bool = False,
    isolate: bool = False,
    point_timeout: float | None = None,
    fresh: bool = False,
    shard: str | None = None,
    plots: Plots = "overview",
    executor: Literal["local", "ray"] = "local",
    address: str | None = None,
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    name: str | None = None,
    out: FolderOrFile | None = None,
    progress: Callable[[str, int], None] | None = None,
    listener: Listener | None = None,
) -> Run:
    """Run a sweep and return its table. What is None has the default of `harness.sweep.Sweep`, or what the sweep file
    `config` says; what each word means stands there and in `python -m harness run --help`.

    Points that the run folder holds already, or another one beside it (unless `fresh`), are not run again; with the
    same `out` and other methods, the folder grows. shard: "3/8" runs this part of the points alone, by default in a
    folder of its own; `python -m harness merge` puts the parts together. plots: "all" draws every metric against every
    cost, "overview" the headline metric against GMACs and latency. executor: "ray" runs points on `workers` of a Ray
    cluster at `address`, or of one on this machine; `point_timeout` goes with both. progress: called with what is being
    done and how many images were just made. Raises UserError for bad input; a failed point is a row with its reason.
    """
    words = dict(locals())
    given = {word: words[word] for word in Sweep.model_fields if words[word] is not None}
    if plots not in get_args(Plots):
        raise UserError(f"plots: expected one of {', '.join(get_args(Plots))}, got {plots!r}")
    part = None if shard is None else Shard.parse(shard)
    cluster = clusters.of_options(executor, address, workers, gpus_per_worker, isolate)
    sweep = sweep_of(given, config=config, plugins=plugins, quick=quick)
    folder = run_folder(sweep, out, name, part)
    hear = listener or (Told(progress) if progress is not None else Listener())
    return run_sweep(sweep, folder, listener=hear, fit=fit, isolate=isolate, point_timeout=point_timeout, fresh=fresh,
                     shard=part, all_plots=plots == "all", cluster=cluster)  # fmt: skip


def profile(
    methods: Methods | None = None,
    *,
    model: str | None = None,
    ratios: str | Sequence[float] | None = None,
    batch: str | int | Sequence[int] | None = None,
    size: str | int | Sequence[int] | None = None,
    text_tokens: int | None = None,
    mask_tokens: int | None = None,
    mode: str | Sequence[str] | None = None,
    ratio_table: FolderOrFile | None = None,
    rounds: int | None = None,
    adapters: FolderOrFile | Sequence[FolderOrFile] | None = None,
    device: str | None = None,
    dtype: str | None = None,
    variant: str | None = None,
    revision: str | None = None,
    plugins: FolderOrFile | Sequence[FolderOrFile] = (),
    isolate: bool = False,
    point_timeout: float | None = None,
    fresh: bool = False,
    name: str | None = None,
    out: FolderOrFile | None = None,
    listener: Listener | None = None,
) -> Run:
    """What methods cost on one denoiser step: `harness.profile("tome", ratios=[0.2], device="meta")`. What is None has
    the default of `harness.sweep.Profile`. Raises UserError for bad input; a method that fails is a row with its
    reason."""
    words = dict(locals())
    for path in [plugins] if isinstance(plugins, (str, Path)) else plugins:
        registry.load_plugin(Path(path))
    chosen: Profile = validated(Profile, {w: words[w] for w in Profile.model_fields if words[w] is not None})
    return run_profile(
        chosen,
        run_folder(chosen, out, name),
        listener=listener,
        isolate=isolate,
        point_timeout=point_timeout,
        fresh=fresh,
    )
