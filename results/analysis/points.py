"""Records as points of a comparison: training seeds of one setting together, in blocks of one budget or strength."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from results.analysis.differences import NotComparable, arms
from results.analysis.paired import Difference, cluster_index, paired
from results.analysis.point_names import SEED, strength, variants
from results.analysis.seeds import paired_over_seeds
from results.analysis.skewness import skew_adjusted_p
from results.record import Record, newest
from results.tables.formatting import compact_json, percent

DENSE = "dense"
OTHERS = "other settings"


@dataclass(frozen=True)
class Point:
    """A method at one setting: its records, one per training seed, in the order of the seeds."""

    name: str
    records: tuple[Record, ...]

    @property
    def first(self) -> Record:
        return self.records[0]

    @property
    def one_training(self) -> bool:
        """Whether the method is trained, and one training stands for all."""
        return len(self.records) == 1 and SEED in self.first.settings


@dataclass(frozen=True)
class Block:
    """The points of one budget or one strength."""

    title: str
    points: tuple[Point, ...]


def points_of(records: Sequence[Record]) -> list[Point]:
    """The usable records of one group as points, in the order of first appearance; of several of one setting and seed,
    which other code or another machine made, the newest."""
    records = newest(records)
    names = variants(records, seeds=False, strengths=False)
    found: dict[str, list[Record]] = {}
    for record in records:
        if record.usable:
            settings = {name: value for name, value in record.settings.items() if name != SEED}
            point = compact_json({"m": record.method, "s": settings, "t": record.task_settings})
            found.setdefault(point, []).append(record)
    short = [f"{names[some[0].key]} {strength(some[0])}".strip() for some in found.values()]
    return [
        Point(name if short.count(name) == 1 else f"{name} ({some[0].key[:6]})", tuple(sorted(some, key=_seed)))
        for name, some in zip(short, found.values(), strict=True)
    ]


def led_to(match: Mapping[str, Any], record: Record) -> bool:
    """Whether a search for a budget ended at this record's settings. match: fields of `harness.matches.Match`; those of
    older versions do not say under which settings of the task they were sought."""
    task = match.get("task_settings")
    if task and compact_json(task) != compact_json({name: record.task_settings.get(name) for name in task}):
        return False
    return bool(record.method == match["method"] and record.settings == match["chosen"])


def budget_of(match: Mapping[str, Any]) -> str:
    """The budget in words: "gmacs 0.8"."""
    return f"{match['axis']} {match['budget']:g}"


def blocks_of(points: Iterable[Point], matches: Sequence[Mapping[str, Any]] = ()) -> list[Block]:
    """By the budgets that a point was tuned to, else by its ratio; points with neither come last, together. matches:
    what the search for budgets found; one without a strength was left out."""
    found: dict[str, list[Point]] = {}
    for point in points:
        own = [budget_of(one) for one in matches if one["strength"] is not None and led_to(one, point.first)]
        for title in dict.fromkeys(own or [percent(point.first.ratio) or OTHERS]):
            found.setdefault(title, []).append(point)
    titles = sorted(found, key=lambda title: title == OTHERS)
    return [Block(title, tuple(found[title])) for title in titles]


@dataclass(frozen=True)
class Pair:
    """Values of a metric by image of two points on the same cases, (S, n) each for S training seeds."""

    method: NDArray[np.float64]
    comparator: NDArray[np.float64]
    clusters: NDArray[np.int64] | None

    @classmethod
    def of(cls, method: Point, comparator: Point, metric: str) -> Pair:
        """Seeds that both have are paired; one that is not trained stands for all seeds of the other. Raises
        NotComparable."""
        own, other = method.records, comparator.records
        if all(SEED in point.first.settings for point in (method, comparator)):
            shared = {_seed(one) for one in own} & {_seed(one) for one in other}
            if not shared and len(own) + len(other) > 2:
                raise NotComparable(f"{method.name} and {comparator.name} have no training seed in common")
            own, other = (tuple(one for one in some if _seed(one) in shared or not shared) for some in (own, other))
        count = max(len(own), len(other))
        both = [one * count if len(one) == 1 else one for one in (own, other)]
        for record in (*own, *other):
            if metric not in record.estimates:
                raise NotComparable(f"{record.method} {record.key[:8]} has no {metric!r}")
        found = [arms(one, another, metric) for one, another in zip(*both, strict=True)]
        if len({len(one.method) for one in found}) > 1:
            raise NotComparable(f"the training seeds of {method.name} were judged on different images")
        return cls(np.array([f.method for f in found]), np.array([f.comparator for f in found]), found[0].clusters)

    def difference(self, method: NDArray[np.float64], comparator: NDArray[np.float64]) -> Difference:
        """By image for one training seed, p the larger one of sign flips and of a t-test that allows for skewed
        differences; else over seeds and images both, the seeds being the clusters."""
        if len(method) == 1:
            found = paired(method[0], comparator[0], self.clusters)
            if found.p is None:
                return found
            each = method[0] - comparator[0]
            sums = each if self.clusters is None else np.bincount(cluster_index(self.clusters, len(each)), each)
            return found._replace(p=max(found.p, skew_adjusted_p(sums)))
        over = paired_over_seeds(method, comparator, self.clusters)
        sd = float((method - comparator).mean(1).std(ddof=1))
        count, n = len(method), method.shape[1]
        return Difference(over.value, over.low, over.high, over.p, n, count, sd, over.detectable)


def _seed(record: Record) -> str:
    return str(record.settings.get(SEED, "")).rjust(12)
