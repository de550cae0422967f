"""What became of a budget: the cost that a method was tuned to on calibration cases, and that of the evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from results.analysis import modes
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
