"""The paired difference of two records in one metric, from the records alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from results.analysis.distribution import fid_difference, kid_difference
from results.analysis.paired import Difference, paired
from results.analysis.point_names import SEED
from results.analysis.seeds import SeedDifference, paired_over_seeds
from results.record import CaseFacts, Record

Features = Callable[[Record, str], NDArray[np.float64] | None]
"""Features (N, D) of a record, or of what its distances compare with (M, D), by extractor; None: not kept."""
_PICTURE = ("emoji", "picture", "image_id")
"""Facts of a case that say which picture it is about: the true one, or the one that its caption was written for."""


class NotComparable(ValueError):
    """Two records that no difference can be drawn from. The message says why."""


def difference(method: Record, comparator: Record, metric: str, features: Features, references: Features) -> Difference:
    """Method less comparator on the cases that both have, which are resampled alike: the mean of the differences by
    image, or, for a distance between sets, the difference of the two distances to the same reference set.

    Cases of one prompt, or about one picture, are clusters. Raises NotComparable where a record lacks the metric or
    values per image (records of schema 1), where no case is in common, or where features were not kept.
    """
    for record in (method, comparator):
        if metric not in record.estimates:
            known = ", ".join(sorted(record.estimates)) or "none"
            raise NotComparable(f"{_name(record)} has no {metric!r}; its estimates: {known}")
    own, other = method.estimates[metric], comparator.estimates[metric]
    if own.set_distance and own.set_distance == other.set_distance:
        rows = in_common(method, comparator)
        return _of_sets(method, comparator, metric, rows, features, references)
    found = arms(method, comparator, metric)
    return paired(found.method, found.comparator, found.clusters)


class Arms(NamedTuple):
    """Values of a metric by image (n,) of two records on the cases that both have, and which of them belong together
    (n,): None where every prompt and picture stands there once."""

    method: NDArray[np.float64]
    comparator: NDArray[np.float64]
    clusters: NDArray[np.int64] | None


def arms(method: Record, comparator: Record, metric: str) -> Arms:
    """Raises NotComparable as `difference`."""
    rows = in_common(method, comparator)
    own, other = method.estimates[metric], comparator.estimates[metric]
    if not own.values or not other.values:
        lacking = [record for record in (method, comparator) if not record.estimates[metric].values]
        old = " (records of schema 1 hold none)" if any(r.schema_version == 1 for r in lacking) else ""
        raise NotComparable(f"{' and '.join(map(_name, lacking))}: no values per image of {metric!r}{old}")
    x, y = np.array(own.values)[rows[:, 0]], np.array(other.values)[rows[:, 1]]
    both = ~(np.isnan(x) | np.isnan(y))  # images that the metric does not apply to
    if not both.any():
        raise NotComparable(f"no image that {metric!r} applies to in both")
    return Arms(x[both], y[both], clusters_of([method.cases[row] for row in rows[both, 0]]))


def seed_difference(methods: Sequence[Record], comparators: Sequence[Record], metric: str) -> SeedDifference:
    """The same over training seeds and images both, see `results.analysis.seeds`, for a metric that is a mean over
    images. methods: one record per seed. comparators: one per seed in the same order, or one for all, which is not
    trained: one training stands for no other. Raises NotComparable where the records do not share all their cases, and
    as `difference`."""
    others = list(comparators) if len(comparators) == len(methods) else [comparators[0]] * len(methods)
    if len(comparators) not in (1, len(methods)):
        raise NotComparable(f"{len(methods)} seeds against {len(comparators)}: give as many, or one")
    if len(comparators) < len(methods) and SEED in comparators[0].settings:
        raise NotComparable(
            f"{len(methods)} seeds against one training of {_name(comparators[0])}, which does not stand for others: "
            "compare at that seed"
        )
    for one, other in zip(methods, others, strict=True):
        rows = in_common(one, other)
        if len(rows) != len(one.cases) or (rows[:, 0] != rows[:, 1]).any():
            raise NotComparable(f"{_name(one)} and {_name(other)} do not share all their cases")
    arms = [
        [record.estimates[metric].values for record in some if metric in record.estimates] for some in (methods, others)
    ]
    if any(len(arm) < len(methods) or not all(arm) for arm in arms):
        raise NotComparable(f"some records have no values per image of {metric!r}")
    ours, theirs = np.array(arms[0]), np.array(arms[1])  # (S, n) each
    known = ~(np.isnan(ours) | np.isnan(theirs)).any(0)  # images that the metric applies to
    if not known.any():
        raise NotComparable(f"no image that {metric!r} applies to in all")
    cases = [case for case, here in zip(methods[0].cases, known, strict=True) if here]
    return paired_over_seeds(ours[:, known], theirs[:, known], clusters_of(cases))


def in_common(method: Record, comparator: Record) -> NDArray[np.int64]:
    """The rows (K, 2) of the cases that both records have: equal prompt, seed and facts. Raises NotComparable where
    there are none, or where a record holds no cases."""
    for record in (method, comparator):
        if not record.cases:
            raise NotComparable(f"{_name(record)} holds no cases (schema {record.schema_version}): nothing to pair")
    if method.cases == comparator.cases:
        return np.repeat(np.arange(len(method.cases))[:, None], 2, axis=1)
    places = {_case(case): row for row, case in enumerate(comparator.cases)}
    rows = [(row, places[key]) for row, case in enumerate(method.cases) if (key := _case(case)) in places]
    if not rows:
        raise NotComparable(f"{_name(method)} and {_name(comparator)} have no case in common")
    return np.array(rows)


def _of_sets(
    method: Record, comparator: Record, metric: str, rows: NDArray[np.int64], features: Features, references: Features
) -> Difference:
    kind, extractor = method.estimates[metric].set_distance.split(" ", 1)
    x, y = features(method, extractor), features(comparator, extractor)
    reference, other = (_reference(one, metric, extractor, references) for one in (method, comparator))
    if x is None or y is None or reference is None:
        raise NotComparable(f"features of {extractor!r} were not kept, or are gone, so sets cannot be resampled")
    if other is None or not np.array_equal(reference, other):
        raise NotComparable(f"{_name(method)} and {_name(comparator)} were compared with different reference sets")
    one = {"frechet": fid_difference, "kernel": kid_difference}[kind]
    clusters = clusters_of([method.cases[row] for row in rows[:, 0]])
    return one(x[rows[:, 0]], y[rows[:, 1]], reference, clusters)


def _reference(record: Record, metric: str, extractor: str, references: Features) -> np.ndarray | None:
    own = references(record, metric)
    return references(record, extractor) if own is None else own  # older records, and metrics that share one set


def clusters_of(cases: Sequence[CaseFacts]) -> NDArray[np.int64] | None:
    """Cases of one prompt or about one picture are one cluster; None where all stand alone, or all are one."""
    first = list(range(len(cases)))  # an earlier case of the same cluster, for its first one itself

    def root(row: int) -> int:
        while first[row] != row:
            first[row] = row = first[first[row]]
        return row

    seen: dict[object, int] = {}
    for row, case in enumerate(cases):
        for one in (case.prompt, *((name, str(case.facts[name])) for name in _PICTURE if name in case.facts)):
            first[root(row)] = root(seen.setdefault(one, row))
    roots = [root(row) for row in range(len(cases))]
    return None if len(set(roots)) in (1, len(cases)) else np.array(roots)


def _case(case: CaseFacts) -> str:
    return json.dumps([case.prompt, case.seed, case.facts], sort_keys=True)


def _name(record: Record) -> str:
    return f"{record.method} {record.key[:8]}"
