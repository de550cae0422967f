"""Two runs, or two points of runs, beside each other: what `python -m harness compare` prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from results.analysis.bounds import bound
from results.analysis.compare import compare, differing, provenance, same_points, unpaired
from results.analysis.compare_types import Comparison
from results.analysis.differences import NotComparable
from results.analysis.point_names import point_names
from results.record import Record
from results.run import Run, open_run

EXAMPLE = "'truth>+2%' or 'latency>+5%'"


class OtherWorkloads(NotComparable):
    """The two sides did not do the same work. differing: what is not the same, a line each."""

    def __init__(self, differing: Sequence[str]) -> None:
        super().__init__("the workloads differ, so no difference would be the methods' own")
        self.differing = tuple(differing)


def compare_runs(a: str, b: str, *, force: bool = False, fail_if: Sequence[str] = ()) -> Comparison:
    """A less B. a, b: run folders, whose common points are compared; or RUN:POINT each, with a point's name
    ("diffcr@0.2", "diffcr 20 %") or the beginning of its key. force: compare different workloads, too, on the images
    that they share. fail_if: conditions such as "truth>+2%".

    Raises OtherWorkloads; NotComparable for what has no metric, point or image in common; BadBound; and StoreError for
    a folder that is no run.
    """
    limits = [bound(text, "<>", EXAMPLE) for text in fail_if]
    (mine, point), (other, another) = _side(a), _side(b)
    if (point is None) != (another is None):
        raise NotComparable(f"give two runs or two points (RUN:POINT), not one of each: {a} {b}")
    if point is not None and another is not None:
        pairs = [(_find(mine, point), _find(other, another))]
    else:
        pairs = same_points(mine.records, other.records)
    if not pairs:
        points = [", ".join(point_names(run.records).values()) or "none" for run in (mine, other)]
        both = f"A has {points[0]}; B has {points[1]}"
        raise NotComparable(f"no point is in both runs: {both}. Points of different settings compare as RUN:POINT")
    different = list(dict.fromkeys(line for one, theirs in pairs for line in differing(one, theirs)))
    if different and not force:
        raise OtherWorkloads(different)
    homes = {id(record): run for run in (other, mine) for record in run.records}  # keys may be the same in both

    def features(record: Record, extractor: str) -> np.ndarray | None:
        return homes[id(record)].features(record, extractor)

    def references(record: Record, extractor: str) -> np.ndarray | None:
        return homes[id(record)].references(record, extractor)

    names = point_names({r.key: r for run in (mine, other) for r in run.records}.values())
    compared = tuple(
        compare(one, theirs, (names[one.key], names[theirs.key]), features, references, limits) for one, theirs in pairs
    )
    alone, broken = unpaired(mine.records, other.records, names) if point is None else ([], [])
    recorded = dict.fromkeys(line for one, theirs in pairs for line in provenance(one, theirs))
    return Comparison(
        a=a, b=b, differing=tuple(different), provenance=tuple(recorded), not_compared=tuple(alone),
        broken=tuple(broken), points=compared,
    )  # fmt: skip


def _side(text: str) -> tuple[Run, str | None]:
    """A run, and the name of a point in it where one is given."""
    folder, colon, point = text.rpartition(":")
    if colon and not Path(text).exists():
        return open_run(folder), point
    return open_run(text), None


def _find(run: Run, name: str) -> Record:
    """As `Table.find`, and METHOD@RATIO."""
    method, at, ratio = name.rpartition("@")
    try:
        value = float(ratio.rstrip(" %")) / (100 if ratio.endswith("%") else 1)
        found = [r for r in run.records if r.method == method and at and abs((r.ratio or -1) - value) < 1e-6]
    except ValueError:
        found = []
    if len(found) > 1:
        named = ", ".join(f"{point_names(run.records)[record.key]} (key {record.key[:8]})" for record in found)
        raise NotComparable(f"{len(found)} points are {name}: {named}; give one's key")
    try:
        record = found[0] if found else run.find(name)
    except KeyError as error:
        raise NotComparable(str(error.args[0])) from error
    if not record.usable:
        raise NotComparable(f"{name} failed: {record.reason}")
    return record
