"""Metrics on the images of one point: what each gives is checked, and none can spoil another's figures."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from harness.errors import first_line
from harness.metric import Metric, Sample
from results.analysis.paired import paired
from results.analysis.statistics import drawn_cases
from results.record import Estimate

_MEASURED = ("gmacs", "latency_", "peak_", "energy_", "throughput_")
"""How the names of what the harness measures begin, whether a point has it or not."""


def judged(
    metrics: Sequence[Metric], sample: Sample, dense: Sample | None, taken: Collection[str]
) -> tuple[dict[str, Estimate], list[str]]:
    """Every metric's sound estimates, and what was lost and why. taken: names that no metric may use, those of costs
    and facts."""
    estimates: dict[str, Estimate] = {}
    lost: list[str] = []
    for metric in metrics:
        try:
            given = metric.estimates(sample, dense)
            if not isinstance(given, dict):
                raise TypeError(f"gave a {type(given).__name__}; expected Estimates by name")
        except Exception as error:
            lost.append(f"metric {metric.name}: {type(error).__name__}: {first_line(error)}")
            continue
        for name, estimate in given.items():
            others = {column for one in metrics if one is not metric for column in _declared(one)} - _declared(metric)
            if reason := _refused(name, estimate, metric, {*taken, *estimates, *others}, len(sample.cases)):
                lost.append(f"metric {metric.name}: {reason}")
            else:
                estimates[name] = estimate
    lost += _without_bad_arrays("features", sample.features, len(sample.cases))
    lost += _without_bad_arrays("references", sample.references, None)
    return estimates, lost


def clustered(estimates: Mapping[str, Estimate], clusters: np.ndarray | None) -> dict[str, Estimate]:
    """The same, with the intervals and replicates of means over images drawn by cluster (N,) where cases share a prompt
    or a picture; a distance between sets draws its own so."""
    if clusters is None:
        return dict(estimates)
    return {
        name: _by_cluster(one, clusters) if len(one.values) == len(clusters) else one for name, one in estimates.items()
    }


def _by_cluster(estimate: Estimate, clusters: np.ndarray) -> Estimate:
    values = np.array(estimate.values)
    known = np.isfinite(values)
    if estimate.low is None or estimate.high is None or not known.any():
        return estimate
    found = paired(values[known], np.zeros(known.sum()), clusters[known])
    if found.low is None or found.high is None:
        return estimate
    bounds = {"low": min(found.low, estimate.low), "high": max(found.high, estimate.high)}  # never the narrower one
    rows = drawn_cases(len(values), len(estimate.replicates), clusters) if estimate.replicates else ()
    drawn = tuple(float(np.nanmean(values[some])) if np.isfinite(values[some]).any() else math.nan for some in rows)
    return estimate.model_copy(update=bounds | {"replicates": drawn})


def _declared(metric: Metric) -> set[str]:
    """The names of its columns, but for those with a part that varies."""
    return {column.name for column in metric.columns if "<" not in column.name}


def _refused(name: object, estimate: object, metric: Metric, taken: Collection[str], cases: int) -> str:
    """Why an estimate does not count; "" where it does."""
    if not isinstance(name, str) or not name.strip() or len(name) > 100 or not name.isprintable():
        return f"the name {str(name)[:40]!r} is no name of a figure"
    if name in taken or name.startswith(_MEASURED):
        return f"{name} is the name of another figure; give it one of its own"
    if not isinstance(estimate, Estimate):
        return f"{name} is a {type(estimate).__name__}; expected an Estimate"
    bounds = [bound for bound in (estimate.low, estimate.high) if bound is not None]
    if not all(map(math.isfinite, (estimate.value, *bounds))):
        return f"{name} is {estimate.value} with the interval {estimate.low} to {estimate.high}: not finite"
    if len(bounds) == 1 or (bounds and bounds[0] > bounds[1]):
        return f"{name} has an interval from {estimate.low} to {estimate.high}"
    if estimate.n < 1 or (estimate.n > cases and metric.counts == "images"):
        return f"{name} says that it is of n = {estimate.n} {metric.counts}; there are {cases} images"
    if estimate.values and len(estimate.values) != cases:
        return f"{name} has values of {len(estimate.values)} images; there are {cases}"
    return ""


def _without_bad_arrays(what: str, arrays: dict[str, np.ndarray], rows: int | None) -> list[str]:
    """Removes what is no array of features (rows, D); returns what was."""
    bad = [
        name
        for name, x in arrays.items()
        if not isinstance(x, np.ndarray) or x.ndim != 2 or x.dtype.kind not in "fiu" or rows not in (None, len(x))
    ]
    for name in bad:
        del arrays[name]
    shape = "(N, D)" if rows is None else f"({rows}, D)"
    return [f"{what} of {name} are no array of numbers {shape}, and were not kept" for name in bad]
