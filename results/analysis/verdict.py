"""The verdict on a run: each point against dense and against its best rival, in words, from records alone.

The protocol, which docs/verdict.md explains: the headline metric's paired differences to dense are one family, named
before anything is looked at, whose p-values are adjusted together (Holm), so that a wrong "better" or "worse" is in at
most 5 of 100 verdicts; non-inferiority is a second one. Differences between rivals of one budget or strength are
adjusted among themselves and exploratory, for the best rival is chosen after looking; where the headline is fidelity,
which dense has none of, they are the family. All other metrics are exploratory and not adjusted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from results.analysis import comparisons, noninferiority, tolerances
from results.analysis.budgets import evaluated
from results.analysis.comparisons import PairedTest
from results.analysis.differences import NotComparable
from results.analysis.headline import Headline, headline
from results.analysis.paired import FEWEST
from results.analysis.pareto import comparable
from results.analysis.point_costs import cost_of, gmacs_of
from results.analysis.point_names import point_names
from results.analysis.points import DENSE, OTHERS, Block, Pair, Point, blocks_of, budget_of, led_to, points_of
from results.analysis.ranks import probability_best, rank_sets
from results.analysis.verdict_types import BlockVerdict, Compared, Rank, Section, Tolerance, Verdict
from results.record import Record
from results.tables.formatting import interval, setup

_NEAR = 0.05  # relative distance in GMACs within which points of different strengths are rivals
_NO_HEADLINE = (
    "no headline metric: the records hold neither truth[...] nor psnr_to_dense, image by image; run without --metrics"
)
_Pairs = Mapping[tuple[str, str], Compared]


def judge(
    records: Iterable[Record], matches: Sequence[Mapping[str, Any]] = (), margin: float = noninferiority.MARGIN
) -> Verdict:
    """One section for each group of comparable records. matches: what the search for budgets found. margin: relative to
    dense's mean, of non-inferiority to dense."""
    groups = comparable(records)
    return Verdict(sections=tuple(_section(group, _about(group, groups), matches, margin) for group in groups))


def _about(group: Sequence[Record], groups: Iterable[Sequence[Record]]) -> str:
    """What the group shares, and those of the task's settings that tell it from other groups, such as a mask area."""
    everyone = [record for members in groups for record in members]
    own = [
        f"{name} {value}"
        for name, value in group[0].task_settings.items()
        if all(record.task_settings.get(name) == value for record in group)
        and any(record.task_settings.get(name) != value for record in everyone)
    ]
    return " · ".join([setup(group[0]), *own])


def _section(group: Sequence[Record], about: str, matches: Sequence[Mapping[str, Any]], margin: float) -> Section:
    n, on = group[0].n_cases, headline(group)
    points = points_of(group)
    references = {_task(point): point for point in points if point.first.method == DENSE}
    if any(record.schema_version == 1 for record in group):
        return Section(setup=about, n=n, notes=("records of schema 1 hold no values per image: no verdict",))
    if on is None:
        return Section(setup=about, n=n, notes=(_NO_HEADLINE,))
    if not references:
        return Section(setup=about, n=n, notes=("dense has no usable record: nothing to compare with",))
    if not on.fidelity and (lacking := [one.name for one in references.values() if not _has(one, on.name)]):
        return Section(setup=about, n=n, notes=(f"{lacking[0]} lacks {on.name}: nothing to compare with",))
    sweep = _Sweep(points, references, on)
    blocks = blocks_of(sweep.others, matches)
    if on.fidelity:
        to_dense: dict[str, Compared] = {}
        pairs = sweep.pairs(blocks, "confirmatory")
    else:
        to_dense = sweep.to_dense(margin)
        pairs = sweep.pairs(blocks, "exploratory")
    judged = list(to_dense.values()) or list(pairs.values())
    n = max((one.n for one in judged), default=n)
    mean = None if on.fidelity else float(np.mean([r.estimates[on.name].value for r in sweep.first.records]))
    seen = [one.detectable * ((one.share or 1 / abs(mean)) if mean else 1) for one in judged if one.detectable]
    return Section(
        setup=about, metric=on.name, unit=on.estimate.unit, better=on.estimate.better,
        convention=on.estimate.convention, fidelity=on.fidelity, n=n, dense=mean,
        margin=None if on.fidelity else margin, resolution=(min(seen), max(seen)) if seen else None,
        blocks=tuple(sweep.block(block, to_dense, pairs) for block in blocks),
        other_metrics=tuple(sweep.other_metrics()), tolerances=tuple(sweep.tolerances()),
        notes=tuple(dict.fromkeys(
            [*_few(n), *_failed(group), *_one_training(sweep.others), *_closest(sweep.others, matches, group),
             *sweep.notes]
        )),
    )  # fmt: skip


def _has(point: Point, metric: str) -> bool:
    return all(metric in record.estimates for record in point.records)


def _failed(group: Sequence[Record]) -> list[str]:
    names = list(point_names([record for record in group if not record.usable]).values())
    return [f"failed, and in no comparison: {', '.join(names)}"] if names else []


def _few(n: int) -> list[str]:
    few = f"{n} image{'s' * (n != 1)}: fewer than {FEWEST} give no p-value, so nothing is distinguishable"
    return [few] if n < FEWEST else []


def _closest(points: Sequence[Point], matches: Sequence[Mapping[str, Any]], group: Sequence[Record]) -> list[str]:
    """What stands in a budget's block and does not meet it."""
    lines = []
    led = ((point, one) for point in points for one in matches if one["strength"] is not None)
    for point, one in ((point, one) for point, one in led if led_to(one, point.first)):
        here = evaluated(one, point.first, group)
        if not one.get("met", True):
            lines.append(
                f"{point.name} comes closest to {budget_of(one)} and does not meet it: {one['cost']:.3f}, "
                "on calibration images"
            )
        elif here is not None and not here.held:
            span = f" {interval(here.low, here.high)}" if here.low < here.high else ""
            lines.append(
                f"{point.name} met {budget_of(one)} on calibration images ({one['cost']:.3f}) and does not here: "
                f"{here.value:.3f}{span}"
            )
    return lines


def _one_training(points: Sequence[Point]) -> list[str]:
    named = ", ".join(sorted({point.first.method for point in points if point.one_training}))
    return [f"one training seed ({named}): the interval covers images only, not training"] if named else []


class _Sweep:
    """The points of one group. notes: what could not be compared, and why."""

    def __init__(self, points: Sequence[Point], references: Mapping[str, Point], on: Headline) -> None:
        self.references, self.on = references, on
        self.first = next(iter(references.values()))
        self.others = [point for point in points if point is not self.first]
        self.notes: list[str] = []

    def reference(self, point: Point) -> Point:
        """Dense under the same settings of the task; for dense itself the first one."""
        found = self.references.get(_task(point), self.first)
        return self.first if found is point else found

    def to_dense(self, margin: float) -> dict[str, Compared]:
        tests: dict[str, PairedTest] = {}
        for point in self.others:
            self._keep(tests, point.name, point, self.reference(point), margin)
        return comparisons.family(tests, "confirmatory")

    def pairs(self, blocks: Sequence[Block], kind: comparisons.Family) -> dict[tuple[str, str], Compared]:
        """All pairs of rivals, each once."""
        tests: dict[tuple[str, str], PairedTest] = {}
        for block in blocks:
            for point in block.points:
                for rival in self.rivals(point, block):
                    if not {(rival.name, point.name), (point.name, rival.name)} & tests.keys():
                        self._keep(tests, (point.name, rival.name), point, rival, None)
        return comparisons.family(tests, kind)

    def _keep(self, tests: dict[Any, PairedTest], key: object, one: Point, other: Point, margin: float | None) -> None:
        try:
            tests[key] = comparisons.paired_test(one, other, self.on.name, margin)
        except NotComparable as error:
            self.notes.append(f"{one.name} and {other.name}: {error}")

    def rivals(self, point: Point, block: Block) -> list[Point]:
        """The other points of the block; where there are none, those of other methods whose GMACs are within 5 % of the
        point's own."""
        alike = [other for other in block.points if other is not point] if block.title != OTHERS else []
        near = [o for o in self.others if o.first.method not in (point.first.method, DENSE) and _near(point, o)]
        return [other for other in alike or near if _task(other) == _task(point)]

    def block(self, block: Block, to_dense: Mapping[str, Compared], pairs: _Pairs) -> BlockVerdict:
        best: dict[frozenset[str], Compared] = {}  # two points that are each other's best rival are one comparison
        for point in block.points:
            found = [(rival, _between(pairs, point, rival)) for rival in self.rivals(point, block)]
            known = [(self._loss(rival), one) for rival, one in found if one is not None]
            if known:
                one = min(known, key=lambda each: each[0])[1]
                cost = cost_of(point, self.reference(point))
                best.setdefault(frozenset((one.method, one.comparator)), one.model_copy(update={"cost": cost}))
        shown = tuple(
            to_dense[point.name].model_copy(update={"cost": cost_of(point, self.reference(point))})
            for point in block.points
            if point.name in to_dense
        )
        ranks = self._ranks(block, pairs) if block.title != OTHERS else []
        return BlockVerdict(title=block.title, to_dense=shown, to_rival=tuple(best.values()), ranks=tuple(ranks))

    def _loss(self, point: Point) -> float:
        value = float(np.mean([record.estimates[self.on.name].value for record in point.records]))
        return value if self.on.estimate.better == "lower" else -value

    def _ranks(self, block: Block, pairs: _Pairs) -> list[Rank]:
        """None where some points were not judged on the same images."""
        members = [point for point in block.points if any(point.name in key for key in pairs)]
        if len(members) < 2:
            return []
        try:
            each = [Pair.of(point, members[0], self.on.name) for point in members]
        except NotComparable:
            return []
        if len({pair.method.shape[1] for pair in each}) > 1:
            return []
        better = self.on.estimate.better or "lower"
        share = probability_best([pair.method for pair in each], better, each[0].clusters)
        won = {}
        for a, one in enumerate(members):
            for b, other in enumerate(members):
                found = _between(pairs, one, other)
                won[a, b] = found is not None and found.word == "better"
        ranked = zip(members, share, rank_sets(won, len(members)), strict=True)
        return [Rank(point=point.name, best=float(best), low=rank.low, high=rank.high) for point, best, rank in ranked]

    def other_metrics(self) -> list[Compared]:
        """Every other metric that dense has, too, image by image."""
        out = []
        for point in self.others:
            for name, estimate in point.first.estimates.items():
                if name != self.on.name and estimate.role == "quality" and estimate.better and estimate.values:
                    try:
                        out.append(comparisons.paired_test(point, self.reference(point), name).result)
                    except NotComparable:
                        continue  # distances to dense do not exist for dense itself
        return out

    def tolerances(self) -> list[Tolerance]:
        out = []
        for point in self.others:
            dense = self.reference(point).first.estimates
            for name, own in point.first.estimates.items():
                passed = tolerances.within(name, own.value, dense[name].value, own.n) if name in dense else None
                if passed is not None:
                    found = self._paired(point, name)
                    if found is not None and found.low is not None and found.high is not None:
                        passed = tolerances.clear_of(found.low, found.high, dense[name].value)
                    out.append(Tolerance(point=point.name, metric=name, value=own.value, dense=dense[name].value,
                                         n=own.n, within=passed))  # fmt: skip
        return out

    def _paired(self, point: Point, metric: str) -> Compared | None:
        """Less dense, image by image; None for a distance between sets."""
        try:
            return comparisons.paired_test(point, self.reference(point), metric).result
        except NotComparable:
            return None


def _between(pairs: _Pairs, one: Point, other: Point) -> Compared | None:
    """The comparison of two points as seen from the first."""
    if (one.name, other.name) in pairs:
        return pairs[one.name, other.name]
    found = pairs.get((other.name, one.name))
    return None if found is None else comparisons.turned(found)


def _near(one: Point, other: Point) -> bool:
    share = gmacs_of(other, one)
    return share is not None and abs(share - 1) <= _NEAR


def _task(point: Point) -> str:
    return repr(sorted(point.first.task_settings.items()))
