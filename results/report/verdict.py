"""The verdict on a group as its page shows it: the words of `results.analysis.verdict`, and where intervals lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from results.analysis.verdict_types import BlockVerdict, Compared, Section
from results.tables.formatting import DIRECTIONS, change, interval, number, percent
from results.tables.verdict import PASSED, duration, latency, resolution

MARKS = {"better": ("good", "▲"), "no worse than margin": ("good", "≈"), "worse": ("bad", "▼"),
         "not distinguishable": ("open", "○")}  # fmt: skip


def shown(section: Section) -> dict[str, Any]:
    """Texts and numbers for the template, one entry per block of a strength or budget."""
    return {
        "metric": section.metric, "unit": section.unit, "convention": section.convention, "n": section.n,
        "direction": DIRECTIONS[section.better or "lower"], "fidelity": section.fidelity,
        "dense": number(section.dense), "margin": percent(section.margin), "resolution": resolution(section),
        "blocks": [_block(block) for block in section.blocks if block.to_dense or block.to_rival],
        "others": [
            {"point": one.method, "metric": one.metric, "difference": _difference(one), "p": number(one.p, 2),
             "direction": DIRECTIONS[one.better]}
            for one in section.other_metrics
        ],
        "tolerances": [
            {"point": one.point, "metric": one.metric, "value": number(one.value), "dense": number(one.dense),
             "n": one.n, "passed": PASSED[one.within]}
            for one in section.tolerances
        ],
    }  # fmt: skip


def _block(block: BlockVerdict) -> dict[str, Any]:
    place = _places([*block.to_dense, *block.to_rival])
    return {
        "title": block.title,
        "first": [one.point for one in block.ranks if one.low == 1],
        "to_dense": [_line(one, place) for one in block.to_dense],
        "to_rival": [_line(one, place) for one in block.to_rival],
        "ranks": [
            {"point": one.point, "best": percent(round(one.best, 3)), "first": one.low == 1,
             "ranks": str(one.low) if one.low == one.high else f"{one.low} to {one.high}"}
            for one in block.ranks
        ],
    }  # fmt: skip


def _line(one: Compared, place: Callable[[Compared], dict[str, float] | None]) -> dict[str, Any]:
    kind, mark = MARKS[one.word]
    return {
        "point": one.method, "rival": one.comparator, "word": one.word, "kind": kind, "mark": mark,
        "detail": "" if one.word != "not distinguishable" else one.text.removeprefix("not distinguishable").strip(),
        "difference": _difference(one), "change": change(one.relative), "p": number(one.p_adjusted, 2),
        "gmacs": number(one.cost.gmacs, 3), "latency": latency(one.cost, word=False),
        "latency_word": one.cost.latency_word, "modes": [f"{mode.mode} {latency(mode)}" for mode in one.cost.modes],
        "settles": _settles(one), "exploratory": one.family == "exploratory", "place": place(one),
    }  # fmt: skip


def _difference(one: Compared) -> str:
    return f"{one.difference:+.3g} {interval(one.low, one.high)}".strip()


def _settles(one: Compared) -> str:
    if one.settle_images is None:
        return ""
    time = "" if one.settle_minutes is None else f", {duration(one.settle_minutes)}"
    return f"about {float(f'{one.settle_images:.2g}'):,.0f} images{time}"


def _places(compared: Sequence[Compared]) -> Callable[[Compared], dict[str, float] | None]:
    """Where an interval lies on a strip from 0 to 100: no difference in the middle, better to the right."""
    bounds = [abs(x) for one in compared for x in (one.low, one.high, one.difference) if x is not None]
    widest = max(bounds, default=0) or 1.0

    def place(one: Compared) -> dict[str, float] | None:
        if one.low is None or one.high is None:
            return None
        sign = -1 if one.better == "lower" else 1
        ends = sorted(round(50 + 48 * sign * x / widest, 2) for x in (one.low, one.high))
        return {"low": ends[0], "high": ends[1], "at": round(50 + 48 * sign * one.difference / widest, 2)}

    return place
