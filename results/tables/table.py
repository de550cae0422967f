"""Records as a table: one row per operating point, a thin view over pandas.

No metric and no method is known here by name, but for the reference row "dense": which estimate is a quality metric
and which direction is better stands in the records. A cell without a number is empty, never 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from results.analysis import modes
from results.analysis.differences import NotComparable, difference, seed_difference
from results.analysis.paired import Difference
from results.analysis.pareto import Better, comparable, front, front_share
from results.analysis.point_names import SEED, point_names, variants
from results.analysis.seeds import SeedDifference
from results.analysis.sets import ranks
from results.files import write_atomic
from results.record import Estimate, Record
from results.tables.formatting import compact_json, csv, number, percent

DENSE = "dense"
MEMORY = "peak_memory_mb"
ALIKE = 0.01
"""Relative difference up to which peak memory is one figure for all points: it is neither listed nor drawn."""
COST_AXES = ("gmacs", "latency_ratio", "latency_s", MEMORY)
POINT = ("method", "settings", "ratio", "ratio_reached", "task", "model", "device", "dtype", "steps", "cases")
COSTS = ("gmacs", "gmacs_paper", "latency_s", "latency_ratio", MEMORY)
"""Costs that have columns even where no record has a figure."""
OF_FIGURE = ("", "_low", "_high", "_n")
"""What the columns of a figure are named after it: the figure, its 95 % interval, its sample size."""
ENVIRONMENT = "env_"
"""What the columns of a record's environment begin with."""
PARETO = ("group", "method", "settings", "ratio", "cost", "quality", "low", "high", "on_front", "front_share", "key")


class Table:
    """What a sweep measured, drawn from its records alone.

    `frame` is the pandas DataFrame behind it. `groups` are the records that may share a front, in the order of first
    appearance; the group numbers of `pareto` count them from 1. `qualities` are the metrics by name, each with the
    first estimate that names its unit, convention and direction.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = tuple(records)
        self.groups = comparable(self.records)

    @cached_property
    def qualities(self) -> dict[str, Estimate]:
        """Quality metrics with a direction, in the order of first appearance; these have Pareto fronts."""
        return {name: e for name, e in self._described.items() if e.role == "quality" and e.better is not None}

    @cached_property
    def costs(self) -> dict[str, Estimate]:
        """Those cost axes that some record has a number for; peak memory only where it tells points apart."""
        shown = {name for group in self.groups for name in _axes(group)}
        if not any(_differs(group, MEMORY) for group in self.groups):
            shown.discard(MEMORY)
        return {name: self._described[name] for name in modes.variants(COST_AXES, self._described) if name in shown}

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per record; empty cells are NaN, or "" in columns of text. docs/results_csv.md explains each."""
        of_task = dict.fromkeys(name for record in self.records for name in record.task_settings)
        facts = dict.fromkeys(ENVIRONMENT + name for record in self.records for name in record.environment)
        numbers = [name + part for name in self.figures for part in OF_FIGURE]
        place = POINT.index("task") + 1
        point = [*POINT[:place], *of_task, *POINT[place:]]
        rows = [_point_cells(record) | _estimate_cells(record) for record in self.records]
        frame = pd.DataFrame(rows, columns=[*point, "outcome", "reason", *numbers, "seed", "guidance", *facts, "key"])
        frame = frame.fillna(dict.fromkeys(facts, ""))
        floats = ["ratio", "ratio_reached", *numbers, "seed", "guidance"]
        return frame.astype(dict.fromkeys(floats, float) | dict.fromkeys(("steps", "cases"), int))

    @property
    def figures(self) -> list[str]:
        """Every estimate that has columns in `frame`: costs, what else was measured, metrics."""
        of_metrics = [name for name, e in self._described.items() if e.role == "quality"]
        return list(dict.fromkeys([*COSTS, *(n for n in self._described if n not in of_metrics), *of_metrics]))

    def pareto(self, cost: str, quality: str) -> pd.DataFrame:
        """The points that have both numbers, per group in ascending cost, and whether they are on the front.

        `low` and `high` bound the 95 % interval of the quality; `front_share` is the share of resamples in which the
        point is on the front (empty where nothing was resampled). A distance between sets of fewer than 1,000 images
        has no front: no point is on it. Raises KeyError for a name without a front.
        """
        if quality not in self.qualities or modes.base(cost) not in COST_AXES:
            raise KeyError(
                f"no front of {quality!r} against {cost!r}: metrics are {list(self.qualities)}, costs {list(COST_AXES)}"
            )
        better = self.qualities[quality].better
        assert better is not None  # `qualities` holds no other
        rows = [
            row
            for index, group in enumerate(self.groups, start=1)
            if cost in _axes(group)
            for row in _front_rows(index, group, cost, quality, better)
        ]
        return pd.DataFrame(rows, columns=list(PARETO)).astype(dict.fromkeys(("ratio", "low", "high"), float))

    def fronts(self) -> Iterator[tuple[str, str, pd.DataFrame]]:
        """Every cost axis with every metric: (cost, quality, `pareto(cost, quality)`), empty ones left out."""
        yield from self._fronts

    @cached_property
    def _fronts(self) -> list[tuple[str, str, pd.DataFrame]]:
        pairs = [(cost, quality, self.pareto(cost, quality)) for cost in self.costs for quality in self.qualities]
        return [(cost, quality, points) for cost, quality, points in pairs if len(points)]

    def find(self, name: str) -> Record:
        """The record of a point, by its name ("diffcr 20 %"), its method where that has one point alone, or its key or
        the beginning of it. Raises KeyError with the names that there are."""
        names = point_names(self.records)
        found = [r for r in self.records if names[r.key] == name]
        found = found or [r for r in self.records if len(name) >= 6 and r.key.startswith(name)]
        found = found or [r for r in self.records if r.method == name]
        if len(found) != 1:
            what = "no point" if not found else f"{len(found)} points"
            raise KeyError(f"{what} of the name {name!r}; there are: {', '.join(names.values())}")
        return found[0]

    def compare(self, method: str | Record, comparator: str | Record, metric: str) -> Difference:
        """Method less comparator in one metric, paired by case: interval, p-value, and the smallest difference that so
        many cases can show. Points by their names, see `find`. Raises KeyError for a name that is unknown, and
        `results.analysis.differences.NotComparable` (a ValueError) for two records that no difference can be drawn
        from."""
        own, other = (self.find(one) if isinstance(one, str) else one for one in (method, comparator))
        return difference(own, other, metric, self.features, self.references)

    def compare_seeds(self, method: str, comparator: str, metric: str) -> SeedDifference:
        """The same for points of several training seeds, over seeds and images both. Points by their names without the
        seed ("diffcr 30 %"). Raises KeyError and NotComparable as `compare`."""
        names = variants(self.records, seeds=False)
        found = [
            [r for r in self.records if f"{names[r.key]} {percent(r.ratio)}".strip() == one]
            for one in (method, comparator)
        ]
        for name, some in zip((method, comparator), found, strict=True):
            if not some:
                known = dict.fromkeys(f"{names[r.key]} {percent(r.ratio)}".strip() for r in self.records)
                raise KeyError(f"no point of the name {name!r}; there are: {', '.join(known)}")
            if len(comparable(some)) > 1:
                raise NotComparable(f"the training seeds of {name!r} were not judged alike: other cases or versions")
        seeds = [[record.settings.get(SEED, 0) for record in some] for some in found]
        if len(found[0]) > 1 < len(found[1]) and sorted(seeds[0]) != sorted(seeds[1]):
            raise NotComparable(
                f"{method!r} has the training seeds {', '.join(map(str, sorted(seeds[0])))} and {comparator!r} "
                f"{', '.join(map(str, sorted(seeds[1])))}: pairs need the same"
            )
        in_order = [sorted(some, key=lambda record: record.settings.get(SEED, 0)) for some in found]
        return seed_difference(in_order[0], in_order[1], metric)

    def features(self, record: Record, extractor: str) -> np.ndarray | None:
        """A table alone holds no features; a run does."""
        return None

    references = features

    def failed(self) -> list[Record]:
        """The records of the points that failed, or lack a metric or mode of execution that failed."""
        return [record for record in self.records if record.outcome != "ok"]

    def sample_size(self, name: str, group: int) -> str:
        """The n behind an estimate in a group (counted from 1): "64", "32 to 64" where points differ, else "0"."""
        sizes = {r.estimates[name].sample_size for r in self.groups[group - 1] if r.usable and name in r.estimates}
        return " to ".join(str(size) for size in sorted({min(sizes), max(sizes)})) if sizes else "0"

    def exact(self, name: str, group: int) -> bool:
        """Whether an estimate is a count in this group (from 1), without any interval, so that no n says anything."""
        return all(r.estimates[name].low is None for r in self.groups[group - 1] if r.usable and name in r.estimates)

    def to_csv(self, path: str | Path) -> Path:
        """Write `frame` as CSV with every digit of every number."""
        return write_atomic(path, csv(self.frame))

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        """A short text table: the point, its ratio, costs, metrics and outcome."""
        if not self.records:
            return "Table: no records"
        shown = ["method", "ratio", *self.costs, *self.qualities, "outcome"]
        frame = self.frame[shown]
        return str(frame.to_string(index=False, na_rep="", max_rows=40, float_format=number))

    def _repr_html_(self) -> str:
        return str(self.frame.to_html(max_rows=60, notebook=True))

    @cached_property
    def _described(self) -> dict[str, Estimate]:
        """Every estimate's name with its first appearance in a successful record."""
        first: dict[str, Estimate] = {}
        for record in self.records:
            if record.usable:
                for name, estimate in record.estimates.items():
                    first.setdefault(name, estimate)
        return first


def _point_cells(record: Record) -> dict[str, Any]:
    cells = {name: getattr(record, name) for name in (*POINT, "outcome", "reason", "key") if name != "cases"}
    cells |= {"cases": record.n_cases, "seed": record.cases[0].seed if record.cases else None}
    scale = re.search(r"guidance (\S+)", record.fingerprint.get("sampler", ""))
    cells |= {"guidance": float(scale[1]) if scale else None}
    cells |= {ENVIRONMENT + name: fact for name, fact in record.environment.items()}
    return cells | record.task_settings | {"settings": compact_json(record.settings)}


def _estimate_cells(record: Record) -> dict[str, float | None]:
    if not record.usable:
        return {}
    cells: dict[str, float | None] = {}
    for name, e in record.estimates.items():
        cells |= {name + part: x for part, x in zip(OF_FIGURE, (e.value, e.low, e.high, e.sample_size), strict=True)}
    return cells


def _front_rows(index: int, group: list[Record], cost: str, quality: str, better: Better) -> list[dict[str, Any]]:
    """The rows of one group's front, cheapest first."""
    points = sorted(
        (record for record in group if record.usable and _has(record, cost) and _has(record, quality)),
        key=lambda record: record.estimates[cost].value,
    )
    costs = [record.estimates[cost] for record in points]
    qualities = [record.estimates[quality] for record in points]
    if all(ranks(quality, estimate) for estimate in qualities):
        on_front = front([e.value for e in costs], [e.value for e in qualities], better)
        shares = front_share(*_paired_replicates(costs, qualities), better)
    else:
        on_front, shares = np.zeros(len(points), dtype=bool), np.full(len(points), math.nan)
    return [
        {
            "group": index,
            "method": record.method,
            "settings": compact_json(record.task_settings | record.settings),
            "ratio": math.nan if record.ratio is None else record.ratio,
            "cost": record.estimates[cost].value,
            "quality": record.estimates[quality].value,
            "low": record.estimates[quality].low,
            "high": record.estimates[quality].high,
            "on_front": bool(on),
            "front_share": float(share),
            "key": record.key,
        }
        for record, on, share in zip(points, on_front, shares, strict=True)
    ]


def _axes(group: list[Record]) -> set[str]:
    """The cost axes of a group. Ratios compare with the dense point of the same task settings, so points of several
    settings are compared in seconds. Latencies that several machines measured are no axis. Those of each mode of
    execution are one."""
    one = len({compact_json(record.task_settings) for record in group}) == 1
    out = {modes.SECONDS if one else modes.RATIO}
    if len({record.hardware for record in group if modes.SECONDS in record.estimates}) > 1:
        out = {modes.SECONDS, modes.RATIO}
    known = (name for record in group for name in record.estimates)
    return set(modes.variants(set(COST_AXES) - out, {*COST_AXES, *known}))


def _differs(group: list[Record], name: str) -> bool:
    """Whether the figures of a group differ by more than `ALIKE`."""
    values = [record.estimates[name].value for record in group if record.usable and _has(record, name)]
    return bool(values) and max(values) - min(values) > ALIKE * abs(min(values))


def _has(record: Record, name: str) -> bool:
    return name in record.estimates and math.isfinite(record.estimates[name].value)


def _paired_replicates(costs: list[Estimate], qualities: list[Estimate]) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays (P, B): B is the least number of replicates; an exact figure, which has none, is repeated.

    Shorter sets of replicates are the first of longer ones (see `statistics.resamples`), so pairs stay pairs. A
    resample in which some figure is NaN or infinite is left out for all points.
    """
    count = min((len(e.replicates) for e in (*costs, *qualities) if e.replicates), default=0)

    def rows(estimates: list[Estimate]) -> np.ndarray:
        drawn = [e.replicates[:count] if e.replicates else (e.value,) * count for e in estimates]
        return np.array(drawn, dtype=float).reshape(len(estimates), count)  # (P, B)

    cost, quality = rows(costs), rows(qualities)
    usable = np.isfinite(cost).all(axis=0) & np.isfinite(quality).all(axis=0)  # (B,)
    return cost[:, usable], quality[:, usable]
