"""What became of a budget: the cost that a method was tuned to on calibration cases, and that of the evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from results.analysis import modes
from results.analysis.points import led_to
from results.record import Record

TOLERANCE = 0.01
"""Relative distance to a budget that counts as met."""


class Evaluated(NamedTuple):
    """A cost relative to dense on the evaluation's cases, with its 95 % interval, which an exact count has not. held:
    whether the budget is not excluded: of the costs tried in tuning the one nearest to it is taken, and what is
    measured with noise is then nearer there than it is."""

    value: float
    low: float
    high: float
    held: bool


def missed(
    matches: Iterable[Mapping[str, Any]], records: Sequence[Record]
) -> Iterator[tuple[Mapping[str, Any], Evaluated]]:
    """What met a budget in tuning, and is excluded by what was measured on the evaluation's cases."""
    for match in matches:
        record = next((one for one in records if match["strength"] is not None and led_to(match, one)), None)
        if record is not None and match["met"] and (here := evaluated(match, record, records)) and not here.held:
            yield match, here


def evaluated(match: Mapping[str, Any], record: Record, records: Iterable[Record]) -> Evaluated | None:
    """Of a record that a search for a budget led to; None where it was not measured. match: fields of
    `harness.matches.Match`. records: among which dense is."""
    axis, _, mode = match["axis"].partition("[")
    name = modes.named(modes.RATIO, mode.rstrip("]") or modes.EAGER) if axis == "latency" else axis
    own = record.estimates.get(name)
    if own is None:
        return None
    value, low, high = own.value, own.low, own.high
    if axis != "latency":
        dense = next((r for r in records if r.method == "dense" and r.task_settings == record.task_settings), None)
        if dense is None or name not in dense.estimates:
            return None
        whole = dense.estimates[name].value
        value, low, high = value / whole, low and low / whole, high and high / whole
    low, high = (value if bound is None else bound for bound in (low, high))
    edge = TOLERANCE * match["budget"] * (1 + 1e-9)
    return Evaluated(value, low, high, held=low - edge <= match["budget"] <= high + edge)
