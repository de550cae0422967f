"""Training seeds: points that differ in theirs alone, taken together, and paired differences over seeds.

A fit repeated with another seed moves a metric, and a bootstrap cannot draw spread from two or three values. So the
interval of a level is Student's, over the seeds' means. Over 2, 3 and 5 of them it misses 4.7, 4.7 and 5.1 times in 100
where the means are normal, and 9 to 12 times where they are exponential (`benchmarks/paired_statistics.py --only
seeds`).

A difference rests on the cases, too. All seeds are judged on the same ones, so that what these favour by chance is in
every seed's mean and shows in no spread between seeds. The half widths of Student's intervals over the seeds' means and
over the cases' are therefore added in squares (MOVER: Zou and Donner, 2008, Statistics in Medicine 27), and p is the
level at which the interval ends at zero: never surer than either alone.

Letters: S seeds, n cases, C clusters (n of them where every case is its own).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from results.analysis.paired import cluster_index, standard_errors
from results.analysis.pareto import comparable
from results.analysis.point_names import SEED, variants
from results.record import Estimate, Record
from results.tables.formatting import asked_and_reached, compact_json

TIMES = ("latency", "throughput", "energy", "device_busy")
"""What the names of figures begin with that hold for one machine."""
FEWEST = 3  # seeds, below which a t-test has next to no power


class OverSeeds(NamedTuple):
    """A mean over training seeds and its 95 % t-interval, None for one seed."""

    value: float
    low: float | None
    high: float | None
    seeds: int


class SeedDifference(NamedTuple):
    """Method less comparator, over training seeds and cases: the mean, its 95 % interval, the two-sided p of no
    difference, and the smallest true difference that so many seeds and cases find 8 times in 10. p is None for two
    seeds, and where all seeds give one difference that is not zero: copies of one fit, most likely, which show no
    spread."""

    value: float
    low: float
    high: float
    p: float | None
    seeds: int
    detectable: float


def over_seeds(means: ArrayLike) -> OverSeeds:
    """Of one figure per training seed (S,). Raises ValueError for NaN, infinite values, or none."""
    values = np.asarray(means, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"one finite value per training seed is needed, not {values.tolist()}")
    value = float(values.mean())
    if len(values) == 1:
        return OverSeeds(value, None, None, 1)
    from scipy.special import stdtrit  # slow to import, and most tables hold one seed

    half = -float(stdtrit(len(values) - 1, 0.025)) * _standard_error(values)
    return OverSeeds(value, value - half, value + half, len(values))


def paired_over_seeds(method: ArrayLike, comparator: ArrayLike, clusters: ArrayLike | None = None) -> SeedDifference:
    """The difference between a trained method and its comparator on the same cases.

    method: values (S, n), a row per training seed. comparator: (n,) where it is not trained, say dense, or (S, n) with
    the seeds in the same order. clusters: as for `paired.paired`. Raises ValueError for fewer than two seeds, unequal
    shapes, NaN or infinite values.
    """
    ours, theirs = np.asarray(method, dtype=np.float64), np.asarray(comparator, dtype=np.float64)
    if ours.ndim != 2 or theirs.shape not in (ours.shape, ours.shape[1:]) or not ours.size:
        raise ValueError(f"(S, n) against (S, n) or (n,) is needed, not {ours.shape} against {theirs.shape}")
    if len(ours) < 2:
        raise ValueError("a difference over training seeds needs two of them at least; for one, compare by cases")
    each = ours - theirs  # (S, n)
    value = over_seeds(each.mean(1)).value
    parts = [(_standard_error(each.mean(1)), len(each))]
    if (of_cases := _by_case(each.mean(0), clusters)) is not None:
        parts.append(of_cases)

    def half(level: float) -> float:
        from scipy.special import stdtrit  # slow to import, and most tables hold one seed

        return math.hypot(*(float(stdtrit(count - 1, level / 2)) * error for error, count in parts if error))

    p = None
    if parts[0][0] and len(each) >= FEWEST:
        p = _level(half, abs(value))
    elif value == 0 and len(each) >= FEWEST:
        p = 1.0
    detectable = math.hypot(*(standard_errors(count) * error for error, count in parts if error))
    return SeedDifference(value, value - half(0.05), value + half(0.05), p, len(each), detectable)


def _by_case(differences: NDArray[np.float64], clusters: ArrayLike | None) -> tuple[float, int] | None:
    """The standard error of the mean of differences (n,) over cases, and how many clusters it is of; None for one."""
    n = len(differences)
    members = np.arange(n) if clusters is None else cluster_index(clusters, n)
    sizes = np.bincount(members)
    count = len(sizes)
    if count == 1:
        return None
    excess = np.bincount(members, differences) - differences.mean() * sizes  # (C,), sums to zero
    return float(np.sqrt((excess**2).sum() / (count - 1) * count)) / n, count


def _level(half: Callable[[float], float], distance: float) -> float:
    """The level at which an interval of this half width ends at this distance, to 1e-12."""
    low, high = math.log(1e-12), 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if half(math.exp(middle)) > distance else (low, middle)
    return math.exp(high)


def level(estimates: Sequence[Estimate]) -> Estimate:
    """One figure of several training seeds: the mean of theirs, with Student's interval over the seeds. A figure of
    quality rests on images, too, which all seeds share: the half width over these is added in squares, as for
    differences. Replicates are the means of the seeds'. Raises ValueError as `over_seeds`."""
    first = estimates[0]
    if len(estimates) == 1:
        return first
    value, low, high, _ = over_seeds([one.value for one in estimates])
    assert low is not None and high is not None  # of two at least
    sides = {"low": value - low, "high": high - value}
    if first.role == "quality":
        for side, sign in (("low", -1), ("high", 1)):
            bounds = [getattr(one, side) for one in estimates]
            if None not in bounds:
                own = np.mean([sign * (bound - one.value) for bound, one in zip(bounds, estimates, strict=True)])
                sides[side] = math.hypot(sides[side], float(own))
    drawn = {len(one.replicates) for one in estimates}
    means = np.mean([one.replicates for one in estimates], axis=0).tolist() if len(drawn) == 1 else ()
    update = {"value": value, "low": value - sides["low"], "high": value + sides["high"], "values": ()}
    return first.model_copy(update=update | {"replicates": tuple(means)})


def pooled(records: Sequence[Record]) -> pd.DataFrame:
    """One row per method, settings without the seed, and everything else that a comparison holds fixed: records of
    other cases, metrics' versions, steps or precision are points of their own.

    Columns: group (of comparable records, counted from 1 as in `Table.pareto`), point (its short name), method,
    settings, ratio, seeds (how many), and for every estimate its mean over the seeds with a 95 % interval: Student's
    over the seeds' values where there are several, so that an exact figure (FLOPs) varies with the seed, too; with one
    seed (`seeds` is 1) that of the cases. Times that several machines took have no mean.
    """
    names = variants(records, seeds=False)
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for number, some in enumerate(comparable(records), start=1):
        for record in some:
            if record.usable:
                settings = {name: value for name, value in record.settings.items() if name != SEED}
                task = compact_json(record.task_settings)
                fixed = (number, record.method, compact_json(settings), record.ratio, record.model, task, record.device)
                groups.setdefault(fixed, []).append(record)
    rows = []
    for (number, method, settings, ratio, *_), members in groups.items():
        ratios = [one.ratio_reached for one in members if one.ratio_reached is not None]
        reached = sum(ratios) / len(ratios) if ratios else None
        name = f"{names[members[0].key]} {asked_and_reached(ratio, reached)}".strip()
        row: dict[str, Any] = {"group": number, "point": name, "method": method, "settings": settings, "ratio": ratio}
        row["seeds"] = len(members)
        shared = [name for name in members[0].estimates if all(name in other.estimates for other in members)]
        if len({member.hardware for member in members}) > 1:
            shared = [name for name in shared if not name.startswith(TIMES)]
        for name in shared:
            row |= _estimate(name, [member.estimates[name] for member in members])
        rows.append(row)
    return pd.DataFrame(rows)


def several(records: Sequence[Record]) -> bool:
    """Whether some method stands there with more than one training seed."""
    seeds: dict[str, set[object]] = {}
    for record in records:
        seeds.setdefault(record.method, set()).add(record.settings.get(SEED))
    return any(len(found) > 1 for found in seeds.values())


def _estimate(name: str, estimates: Sequence[Estimate]) -> dict[str, float | None]:
    values = np.array([e.value for e in estimates])
    low, high = estimates[0].low, estimates[0].high
    if len(estimates) > 1:
        low, high = over_seeds(values)[1:3] if np.isfinite(values).all() else (None, None)
    return {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high}


def _standard_error(values: NDArray[np.float64]) -> float:
    """Zero where all values are equal, whatever their mean rounds to."""
    return 0.0 if np.ptp(values) == 0 else float(values.std(ddof=1) / np.sqrt(len(values)))
