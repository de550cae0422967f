"""What a point costs relative to another, from their records."""

from __future__ import annotations

import numpy as np

from results.analysis.paired import FEWEST, paired
from results.analysis.points import Point
from results.analysis.verdict_types import Cost, LatencyWord
from results.record import Record

LEVEL = 0.05


def cost_of(point: Point, dense: Point) -> Cost:
    """Relative to dense; several training seeds cost what the first one does."""
    own, other = point.first, dense.first
    gmacs = None
    if "gmacs" in own.estimates and "gmacs" in other.estimates:
        gmacs = own.estimates["gmacs"].value / other.estimates["gmacs"].value
    ratio = own.estimates.get("latency_ratio")
    if ratio is None:
        return Cost(gmacs=gmacs)
    return Cost(
        gmacs=gmacs, latency=ratio.value, latency_low=ratio.low, latency_high=ratio.high, latency_pairs=ratio.n,
        latency_word=_latency_word(own),
    )  # fmt: skip


def _latency_word(record: Record) -> LatencyWord:
    own, dense = (np.array(record.samples.get(f"latency_{who}_s", ())) for who in ("method", "dense"))
    if len(own) != len(dense) or len(own) < FEWEST:
        return ""
    found = paired(np.log(own), np.log(dense))
    if found.p is None or found.p > LEVEL:
        return "not distinguishable"
    return "faster" if found.value < 0 else "slower"
