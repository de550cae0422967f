"""A comparison of two runs for reading: Markdown, fit for a pull request, and the same for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from results.analysis.compare_types import Comparison, Condition, CostRatio, MetricDifference, PointComparison
from results.tables.formatting import DIRECTIONS, change, code, interval, number, plain
from results.tables.markdown import rows

_READING = """\
Difference: A less B, paired by image, with its 95 % interval; p: sign-flip permutation, not adjusted; detectable: the
smallest true difference that so many images find 8 times in 10."""
_STATES = {"holds": "**fails**", "open": "**fails** (not excluded)", "excluded": "passes"}


def document(comparison: Comparison) -> str:
    """The comparison as Markdown."""
    parts = [f"# {plain(comparison.a)} against {plain(comparison.b)}"]
    if comparison.differing:
        parts.append("**The workloads differ, so a difference need not be the methods':**\n\n"
                     + "\n".join(f"- {plain(line)}" for line in comparison.differing))  # fmt: skip
    if comparison.provenance:
        parts.append("Recorded, and no obstacle:\n\n" + "\n".join(f"- {plain(line)}" for line in comparison.provenance))
    if comparison.not_compared:
        parts.append("Not compared:\n\n" + "\n".join(f"- {plain(line)}" for line in comparison.not_compared))
    if comparison.failed and comparison.broken:
        parts.append(f"**fails**: {plain(', '.join(comparison.broken))} ran in B and does not in A")
    parts.append(_READING)
    for point in comparison.points:
        parts += _point(point)
    return "\n\n".join(parts) + "\n"


def _point(point: PointComparison) -> Iterator[str]:
    yield f"## {plain(point.a)}" if point.a == point.b else f"## {plain(point.a)} against {plain(point.b)}"
    if point.conditions:
        yield rows(("condition", "", "why"), map(_condition, point.conditions))
    yield rows(("metric", "A", "B", "difference", "%", "p", "n", "detectable"), map(_metric, point.metrics))
    if point.costs:
        yield rows(("cost", "A", "B", "A / B"), map(_cost, point.costs))
    notes = [f"no interval for {', '.join(some)}: {why}" for why, some in _lacking(point).items()]
    if point.in_one_alone:
        notes.append(f"in one alone: {', '.join(point.in_one_alone)}")
    if notes or point.notes:
        yield "\n".join(f"- {plain(note)}" for note in (*point.notes, *notes))


def _lacking(point: PointComparison) -> dict[str, list[str]]:
    """Metrics without an interval, by the reason."""
    found: dict[str, list[str]] = {}
    for one in point.metrics:
        if one.note:
            found.setdefault(one.note, []).append(one.metric)
    return found


def _condition(one: Condition) -> list[str]:
    return [code(one.text), _STATES[one.state], plain(one.why)]


def _metric(one: MetricDifference) -> list[str]:
    return [
        f"{code(one.metric)} ({DIRECTIONS[one.better]})", number(one.a), number(one.b),
        f"{one.difference:+.3g} {interval(one.low, one.high)}".strip(),
        change(one.relative), number(one.p, 2), str(one.n or ""),
        number(one.detectable, 2),
    ]  # fmt: skip


def _cost(one: CostRatio) -> list[str]:
    ratio = f"{number(one.ratio, 3)} {interval(one.low, one.high)}".strip()
    name = f"{one.cost}, {one.unit}" + (f", {one.pairs} pairs" if one.pairs else "")
    return [plain(name), number(one.a), number(one.b), ratio]
