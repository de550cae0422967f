"""What a point costs relative to another, from their records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from results.analysis import modes
from results.analysis.compare import latencies_compare, latency_between, latency_of
from results.analysis.paired import FEWEST
from results.analysis.points import Point
from results.analysis.seeds import over_seeds
from results.analysis.verdict_types import Cost, LatencyWord, ModeLatency
from results.record import Estimate, Record

FLOOR = "latency_floor"
"""In a record's environment, where the machine was calibrated (`calibrate-clock`)."""


def cost_of(point: Point, dense: Point) -> Cost:
    """Relative to dense; of several training seeds the mean, with Student's interval over the seeds."""
    other = dense.first
    one_machine = len({record.hardware for record in point.records}) == 1  # else their times have no mean
    each = [_latencies(own, other) if one_machine else {} for own in point.records]
    found = {
        mode: _latency((*point.records, other), _over_seeds([one[mode] for one in each]), mode)
        for mode in each[0]
        if all(mode in one for one in each)
    }
    eager = found.pop(modes.EAGER, {})
    return Cost(
        gmacs=gmacs_of(point, dense), **eager, modes=tuple(ModeLatency(mode=mode, **one) for mode, one in found.items())
    )


def gmacs_of(point: Point, dense: Point) -> float | None:
    """Relative to dense, the mean over training seeds; None where some record has none."""
    if not all("gmacs" in record.estimates for record in (*point.records, dense.first)):
        return None
    own = [record.estimates["gmacs"].value for record in point.records]
    return sum(own) / len(own) / dense.first.estimates["gmacs"].value


def _latencies(own: Record, other: Record) -> dict[str, Estimate]:
    """Of one training seed, relative to dense, by mode."""
    if latency_of(own, other) == modes.RATIO:
        return {mode: own.estimates[modes.named(modes.RATIO, mode)] for mode in modes.of(own.estimates)}
    # the ratio is to a dense run of other work
    return {
        mode: _of_seconds(own, other, mode) for mode in modes.of(own.estimates) if latencies_compare(own, other, mode)
    }


def _over_seeds(ratios: Sequence[Estimate]) -> Estimate:
    if len(ratios) == 1:
        return ratios[0]
    value, low, high, _ = over_seeds([one.value for one in ratios])
    return ratios[0].model_copy(
        update={"value": value, "low": low, "high": high, "n": min(one.n for one in ratios), "replicates": ()}
    )


def _of_seconds(own: Record, other: Record, mode: str) -> Estimate:
    between = latency_between(own, other, mode)
    assert between.ratio is not None
    return Estimate(
        value=between.ratio, low=between.low, high=between.high, n=between.pairs, unit="method / dense",
        convention="of seconds that were measured apart",
    )  # fmt: skip


def _latency(records: Sequence[Record], ratio: Estimate, mode: str) -> dict[str, Any]:
    return {
        "latency": ratio.value, "latency_low": ratio.low, "latency_high": ratio.high, "latency_pairs": ratio.n,
        "latency_word": _latency_word(records, ratio, mode),
    }  # fmt: skip


def _latency_word(records: Sequence[Record], ratio: Estimate, mode: str) -> LatencyWord:
    """From the interval over blocks of pairs; a ratio nearer to 1 than the machine's noise floor says nothing, nor does
    one of which a GPU idles through too much. records: of the method and of dense."""
    if ratio.low is None or ratio.high is None or ratio.n < FEWEST:
        return ""
    if modes.launch_bound(records, mode):
        return "launch-bound"
    floor = max(float(record.environment.get(FLOOR, 0.0)) for record in records)
    if ratio.low <= 1 <= ratio.high or abs(ratio.value - 1) <= floor:
        return "not distinguishable"
    return "faster" if ratio.value < 1 else "slower"
