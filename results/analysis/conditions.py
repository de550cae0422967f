"""Bounds on a comparison, for a gate in continuous integration.

A condition names what must not be, such as `truth>+2%`. It fails unless the data exclude it: unless the 95 % interval
of A less B lies wholly on the right side of the bound. So the burden of proof is on the change, as it is for "no worse
than margin": a run too small to tell fails, and says so, instead of passing whatever happened. Counts are exact.
"""

from __future__ import annotations

from collections.abc import Sequence

from results.analysis import modes
from results.analysis.bounds import BadBound, Bound, check_unit, figure
from results.analysis.compare_types import Condition, CostRatio, MetricDifference
from results.analysis.paired import FEWEST
from results.analysis.sets import RANKING_NEEDS, is_set_distance
from results.tables.formatting import number

EXACT = ("gmacs", "peak_memory_mb")


def condition(limit: Bound, metrics: Sequence[MetricDifference], costs: Sequence[CostRatio]) -> Condition:
    """Raises BadBound for a bound on what is in neither, or one without a unit."""
    measured = {one.metric: one for one in metrics}
    spent = {_name(one.cost): one for one in costs} | {one.cost: one for one in costs}
    name = figure(limit.name, [*measured, *spent])
    if name in spent:
        return _of_cost(limit, spent[name])
    one = measured[name]
    check_unit(limit, one.unit)
    edge = limit.value / 100 * abs(one.b) if limit.unit == "%" else limit.value
    if is_set_distance(name) and 0 < one.n < RANKING_NEEDS:
        few = f"a distance between sets, which fewer than {RANKING_NEEDS:,} images do not rank"
        return _judged(limit, one.difference, None, edge, few)
    if one.low is None or one.high is None or one.n < FEWEST:
        few = f"fewer than {FEWEST} images" if one.n else one.note or "no values per image"
        return _judged(limit, one.difference, None, edge, f"no interval: {few}")
    return _judged(limit, one.difference, (one.low, one.high), edge)


def _name(cost: str) -> str:
    """What a bound names it by: "latency" stands for a ratio of seconds, too, see `compare.latency_between`."""
    base, mode = modes.split(cost)
    return modes.named(modes.RATIO, mode) if base == modes.SECONDS else cost


def _of_cost(limit: Bound, one: CostRatio) -> Condition:
    if limit.unit != "%":
        raise BadBound(f"{limit.text!r} has no unit: a cost is bounded in % of B's, such as {limit.name}>+5%")
    if one.ratio is None:
        raise BadBound(f"{limit.text!r}: {one.cost} of B is 0, and nothing is a percentage of it")
    change, edge = one.ratio - 1, limit.value / 100
    if one.cost in EXACT:
        return _judged(limit, change, (change, change), edge)
    if one.low is None or one.high is None or one.pairs < FEWEST:
        return _judged(limit, change, None, edge, f"no interval: fewer than {FEWEST} pairs of timed images")
    return _judged(limit, change, (one.low - 1, one.high - 1), edge)


def _judged(
    limit: Bound, value: float, interval: tuple[float, float] | None, edge: float, lacking: str = ""
) -> Condition:
    if interval is None:
        return Condition(text=limit.text, state="open", fails=True, why=f"{value:+.3g}, {lacking}")
    low, high = interval
    beyond, within = (low > edge, high <= edge) if limit.relation == ">" else (high < edge, low >= edge)
    shown = f"{value:+.3g} [{number(low, 3)}, {number(high, 3)}]" if low != high else f"{value:+.3g}"
    if beyond:
        return Condition(text=limit.text, state="holds", fails=True, why=f"{shown} is beyond {edge:+.3g}")
    if within:
        return Condition(text=limit.text, state="excluded", fails=False, why=f"{shown} excludes {edge:+.3g}")
    return Condition(text=limit.text, state="open", fails=True, why=f"{shown} does not exclude {edge:+.3g}")
