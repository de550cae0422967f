"""One comparison of two points in one metric, families of them, and the words that they earn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from results.analysis import noninferiority, power
from results.analysis.multiplicity import holm
from results.analysis.paired import Difference
from results.analysis.pareto import Better
from results.analysis.points import Pair, Point
from results.analysis.verdict_types import Compared, Family, Word

LEVEL = 0.05
LOGARITHMIC = ("dB", "nats")
"""Units without a zero, of which a percentage says nothing."""
Key = TypeVar("Key")


class PairedTest(NamedTuple):
    """A comparison before any word, the differences behind it, and the seconds that one image of both costs. limit:
    the difference to what the margin allows."""

    result: Compared
    found: Difference
    limit: Difference | None
    seconds: float | None


def paired_test(method: Point, comparator: Point, metric: str, margin: float | None = None) -> PairedTest:
    """margin: relative to the comparator's mean; None: no claim of non-inferiority. Raises NotComparable."""
    pair = Pair.of(method, comparator, metric)
    estimate = method.first.estimates[metric]
    better = estimate.better or "lower"
    found = pair.difference(pair.method, pair.comparator)
    limit = None
    if margin is not None:
        limit = noninferiority.from_limit(pair.method, pair.comparator, margin, better, pair.difference)
    mean = float(pair.comparator.mean())
    each = [power.seconds_per_image(one.first) for one in (method, comparator)]
    result = Compared(
        method=method.name, comparator=comparator.name, metric=metric, unit=estimate.unit, better=better,
        difference=found.value, low=found.low, high=found.high,
        relative=found.value / abs(mean) if mean and estimate.unit not in LOGARITHMIC else None,
        p=found.p, n=found.n, seeds=len(pair.method), one_training=method.one_training or comparator.one_training,
        sd=found.sd, detectable=found.detectable, margin=margin,
        p_margin=None if limit is None else noninferiority.one_sided(limit, better),
    )  # fmt: skip
    return PairedTest(result, found, limit, None if None in each else sum(one or 0.0 for one in each))


def family(tests: Mapping[Key, PairedTest], kind: Family) -> dict[Key, Compared]:
    """The comparisons of one family: p-values adjusted together (Holm), of differences and of margins each, and words;
    for what is not distinguishable, how many images would settle it."""
    p = holm([one.result.p for one in tests.values()])
    p_margin = holm([one.result.p_margin for one in tests.values()])
    out = {}
    for (key, one), own, of_margin in zip(tests.items(), p, p_margin, strict=True):
        word = word_of(one.found.value, own, of_margin, one.result.better)
        settle = None
        if word == "not distinguishable" and one.result.seeds == 1:
            settle = power.images_to_settle(one.found, one.limit, one.result.better, len(tests))
        minutes = None if settle is None or one.seconds is None else settle * one.seconds / 60
        out[key] = one.result.model_copy(
            update={"p_adjusted": own, "p_margin_adjusted": of_margin, "family": kind, "word": word,
                    "settle_images": settle, "settle_minutes": minutes}
        )  # fmt: skip
    return out


def word_of(value: float, p: float | None, p_margin: float | None, better: Better) -> Word:
    """From a difference, its p-value, and that of "worse by the margin or more". A loss that is there, but smaller than
    the margin, is "no worse than margin"."""
    improves = value < 0 if better == "lower" else value > 0
    clear = p is not None and p <= LEVEL and value != 0
    if clear and improves:
        return "better"
    if p_margin is not None and p_margin <= noninferiority.LEVEL:
        return "no worse than margin"
    return "worse" if clear else "not distinguishable"


def turned(found: Compared) -> Compared:
    """The same comparison as seen from the comparator."""
    words: dict[Word, Word] = {"better": "worse", "worse": "better"}
    relative = None if found.relative is None else -found.relative / (1 + found.relative)
    return found.model_copy(
        update={"method": found.comparator, "comparator": found.method, "difference": -found.difference,
                "relative": relative, "low": None if found.high is None else -found.high,
                "high": None if found.low is None else -found.low, "word": words.get(found.word, found.word)}
    )  # fmt: skip
