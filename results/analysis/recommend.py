"""Which points meet a budget, and how probable that is, given that images and timings are samples.

Letters: n cases, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from results.analysis import comparisons
from results.analysis.bounds import COSTS, BadBound, Bound, check_unit, figure
from results.analysis.differences import NotComparable, arms, clusters_of
from results.analysis.modes import RATIO, base, launch_bound, named, split
from results.analysis.paired import FEWEST, cluster_index
from results.analysis.points import Point
from results.analysis.statistics import block_medians, resample_counts, resamples
from results.record import Record

RESAMPLES = 2000
MEETS = 0.5
"""Probability from which on a point counts as one that meets the budget."""

Met = NDArray[np.float64]


@dataclass(frozen=True)
class Check:
    """One limit on one point. figure: what was limited. kind: a cost or a change relative to dense, a change in the
    metric's unit (both negative for the worse), or a level. missed: by how much, 0 where the limit is met."""

    figure: str
    kind: Literal["cost", "relative change", "change", "level"]
    limit: float
    value: float
    missed: float

    def shown(self, number: float) -> str:
        """The limit or the value as people read it."""
        form = {"cost": ".3g", "relative change": "+.2%", "change": "+.3g", "level": ".4g"}
        return format(number, form[self.kind]).replace("%", " %")

    def __str__(self) -> str:
        return f"{self.figure} {self.shown(self.value)} (limit {self.shown(self.limit)}{', met' * (not self.missed)})"


@dataclass(frozen=True)
class Candidate:
    """A point, its checks, and the probability that it meets them all."""

    record: Record
    name: str
    checks: tuple[Check, ...]
    probability: float

    @property
    def missed(self) -> float:
        """The largest shortfall, relative to dense, or else to the limit's own size."""
        share = ("cost", "relative change")
        return max(one.missed / (1 if one.kind in share else max(abs(one.limit), 1e-12)) for one in self.checks)


def candidates(
    points: Mapping[str, Record], dense: Record, most: Sequence[Bound], least: Sequence[Bound]
) -> tuple[list[Candidate], list[str]]:
    """Those that have every figure, and why others are left out. points: by name. Images are resampled once for all
    figures that vary with them, so that their limits are met or missed together; timings are drawn apart, and say
    nothing below `FEWEST` pairs, or where a GPU idled. Raises BadBound for a bound on nothing that the records hold, or
    without a unit."""
    known = [
        name for record in (dense, *points.values()) for name, e in record.estimates.items()
        if base(name) in COSTS.values() or (e.role == "quality" and e.better)
    ]  # fmt: skip
    on_cost = [(one, figure(one.name, known)) for one in most]
    on_quality = [(one, figure(one.name, known)) for one in least]
    for one, name in on_cost:
        if base(name) not in COSTS.values():
            raise BadBound(f"--max {one.text!r}: expected a cost ({', '.join(COSTS)}); a metric's limit is --min")
    for one, name in on_quality:
        if base(name) in COSTS.values():
            raise BadBound(f"--min {one.text!r}: expected a metric; a cost's limit is --max")
    found, left_out = [], []
    for label, record in points.items():
        try:
            checked = [_cost(one, name, record, dense) for one, name in on_cost]
            checked += [_quality(one, name, record, dense) for one, name in on_quality]
        except NotComparable as error:
            left_out.append(f"{label} is left out: {error}")
            continue
        timed = [met for check, met in checked if base(check.figure) == RATIO]
        of_images = [met for check, met in checked if base(check.figure) != RATIO]
        every = math.prod(float(met.mean()) for met in timed)
        every *= float(np.prod(of_images, axis=0).mean()) if of_images else 1.0
        found.append(Candidate(record, label, tuple(check for check, _ in checked), every))
    return found, left_out


def ranked(found: Iterable[Candidate], metric: str) -> list[Candidate]:
    """The most probable first; of those that are equally so, those that miss the least, then the best in the metric
    ("" for none), then the cheapest."""

    def place(one: Candidate) -> tuple[float, ...]:
        quality, gmacs = one.record.estimates.get(metric), one.record.estimates.get("gmacs")
        loss = 0.0 if quality is None else quality.value * (-1 if quality.better == "higher" else 1)
        return -one.probability, one.missed, loss, math.inf if gmacs is None else gmacs.value

    return sorted(found, key=place)


def beside(first: Candidate, others: Sequence[Candidate], metric: str) -> tuple[list[str], list[str]]:
    """The names of those that cannot be told apart from the first in a metric, and of those that are better (Holm over
    all of them)."""
    tests = {}
    for other in others:
        try:
            own, theirs = (Point(one.name, (one.record,)) for one in (other, first))
            tests[other.name] = comparisons.paired_test(own, theirs, metric)
        except NotComparable:
            continue
    judged = comparisons.family(tests, "exploratory")
    tied, better = ([n for n, one in judged.items() if one.word == word] for word in ("not distinguishable", "better"))
    return tied, better


def _cost(limit: Bound, name: str, record: Record, dense: Record) -> tuple[Check, Met]:
    if limit.unit not in ("", "%") or limit.signed:
        raise BadBound(f"--max {limit.text!r}: expected a share of dense, such as {limit.name}=0.8 or {limit.name}=80%")
    most = limit.value / (100 if limit.unit == "%" else 1)
    kind, mode = split(name)
    if name not in record.estimates or (kind != RATIO and name not in dense.estimates):
        raise NotComparable(f"it has no {name}")
    own = record.estimates[name]
    value = own.value if kind == RATIO else own.value / dense.estimates[name].value
    check = Check(name, "cost", most, value, max(0.0, value - most))
    if kind == RATIO:
        return check, _timed(record, dense, mode, most)
    if own.values:  # of a method that decides image by image
        spare = most * dense.estimates[name].value - np.array(own.values)
        return check, _kept(spare, clusters_of(record.cases))
    return check, np.full(RESAMPLES, float(value <= most))


def _timed(record: Record, dense: Record, mode: str, most: float) -> Met:
    """The share of resamples of its blocks of pairs in which a latency is at most that, (R,) times. It is no more than
    1 - 2^-B: so often are all of B blocks there by luck where the true median lies just beyond."""
    pairs = [record.samples.get(named(f"latency_{who}_s", mode), ()) for who in ("method", "dense")]
    if len(pairs[0]) != len(pairs[1]) or len(pairs[0]) < FEWEST:
        raise NotComparable(f"its latency is of {len(pairs[0])} timed pairs; {FEWEST} are the fewest")
    if launch_bound((record, dense), mode):
        raise NotComparable("its latency is launch-bound: a GPU idled through more than a quarter of the time")
    blocks = block_medians(*pairs)
    share = float((np.median(blocks[resamples(len(blocks), RESAMPLES)], axis=1) <= most).mean())
    return np.full(RESAMPLES, min(share, 1 - 0.5 ** len(blocks)))


def _quality(limit: Bound, name: str, record: Record, dense: Record) -> tuple[Check, Met]:
    """A signed limit is a difference to dense, negative for the worse; one without a sign is a level. The difference to
    the limit is a mean over images (n,), which is resampled."""
    if name not in record.estimates:
        raise NotComparable(f"it has no {name}")
    estimate = record.estimates[name]
    sign = 1 if estimate.better == "higher" else -1
    if not limit.signed:
        if limit.unit == "%":
            raise BadBound(f"--min {limit.text!r} has no sign: expected a change, such as {limit.name}=-1%")
        check_unit(limit, estimate.unit)
        found = arms(record, record, name)
        spare = sign * (found.method - limit.value)
        check = Check(name, "level", limit.value, estimate.value, max(0.0, -float(spare.mean())))
        return check, _kept(spare, found.clusters)
    check_unit(limit, estimate.unit)
    if name not in dense.estimates:
        level = f"{limit.name}=30{estimate.unit}"
        raise BadBound(f"--min {limit.text!r}: dense has no {name} to differ from; give a level, such as {level}")
    found = arms(record, dense, name)
    share = limit.unit == "%"
    least = limit.value / 100 if share else limit.value
    allowed = least * np.abs(found.comparator) if share else np.full(len(found.method), least)
    spare = sign * (found.method - found.comparator) - allowed
    scale = abs(float(found.comparator.mean())) if share else 1.0
    value = sign * float((found.method - found.comparator).mean()) / scale
    check = Check(name, "relative change" if share else "change", least, value, max(0.0, least - value))
    return check, _kept(spare, found.clusters)


def _kept(spare: NDArray[np.float64], clusters: NDArray[np.int64] | None) -> Met:
    """In which resamples (R,) the mean of what is to spare (n,) is not negative. Deviations are widened by
    sqrt(n / (n - 1)), for a resample varies less than a sample does."""
    members = np.arange(len(spare)) if clusters is None else cluster_index(clusters, len(spare))
    sums, sizes = np.bincount(members, spare), np.bincount(members)
    mean = spare.mean()
    wider = math.sqrt(len(sums) / (len(sums) - 1)) if len(sums) > 1 else 1.0
    drawn = np.concatenate([(counts @ sums) / (counts @ sizes) for counts in resample_counts(len(sums), RESAMPLES)])
    return (mean + wider * (drawn - mean) >= 0).astype(float)
