"""Numbers and names as people read them; shared by the tables and the plots."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd

from results.analysis.modes import split
from results.record import Record

TITLES = {"gmacs": "GMACs", "latency_ratio": "latency ratio", "peak_memory_mb": "peak memory"}
DIRECTIONS = {"lower": "lower is better", "higher": "higher is better"}
_AS_ASKED = 0.015  # ratios this close count as the one asked for


def number(value: float | None, digits: int = 4) -> str:
    """A number with `digits` significant digits, thousands grouped; "" for None and NaN."""
    if value is None or math.isnan(value):
        return ""
    if math.isfinite(value) and abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def interval(low: float | None, high: float | None) -> str:
    """An interval as "[low, high]" with 3 significant digits; "" where there is none."""
    return f"[{number(low, 3)}, {number(high, 3)}]" if number(low) and number(high) else ""


def percent(ratio: float | None) -> str:
    """A ratio as a percentage, such as "20 %"; "" for None and NaN."""
    return "" if ratio is None or math.isnan(ratio) else f"{100 * ratio:.3g} %"


def asked_and_reached(ratio: float | None, reached: float | None) -> str:
    """The ratio asked for, and the one that really runs where a method has no such ratio: "30 % (reaches 25 %)", as
    pruning 2 of 8 blocks does."""
    asked = percent(ratio)
    if ratio is None or reached is None or abs(reached - ratio) <= _AS_ASKED:
        return asked
    return f"{asked} (reaches {percent(reached)})"


def change(share: float | None) -> str:
    """A relative difference as a signed percentage with two digits, such as "-12 %"; "" for None."""
    if share is None:
        return ""
    share = 0.0 if abs(share) < 1e-12 else share  # sums of equal numbers in another order
    return f"{100 * share:+,.0f} %" if abs(share) >= 0.995 else f"{100 * share:+.2g} %"


def point(method: str, ratio: float | None) -> str:
    """The short name of an operating point, such as "uniform 20 %"."""
    return f"{method} {percent(ratio)}".strip()


def title(cost: str) -> str:
    """The name of a cost axis in words."""
    name, mode = split(cost)
    return TITLES.get(cost) or (f"{TITLES.get(name, name)} [{mode}]" if name != cost else cost)


def setup(record: Record) -> str:
    """What a group of comparable points shares, on one line."""
    apart = "calibration " if record.fingerprint.get("split") == "calibration" else ""
    return (
        f"{record.task} · {record.model} · {record.device} · {record.dtype} · "
        f"{record.steps} steps · {record.n_cases} {apart}cases"
    )


def parts(frame: pd.DataFrame, column: str) -> Iterator[tuple[Any, pd.DataFrame]]:
    """The rows of a frame by their value in a column, in the order of first appearance."""
    yield from frame.groupby(column, sort=False)


def plain(text: str) -> str:
    """Text that somebody else has named, so that Markdown and HTML leave it as it is."""
    for sign in ("\\", "`", "*", "$"):
        text = text.replace(sign, "\\" + sign)
    return html.escape(text, quote=False).replace("](", "]\\(")


def code(text: str) -> str:
    """The same as code."""
    return f"`{text.replace('`', chr(39))}`" if text else ""


def csv(frame: pd.DataFrame) -> str:
    """A frame as CSV, every digit of every number. Text that a spreadsheet would run as a formula has a quote before
    it."""
    safe = frame.rename(columns=lambda name: _no_formula(str(name)))
    for place, kind in enumerate(safe.dtypes):
        if not pd.api.types.is_numeric_dtype(kind):
            cells = [_no_formula(cell) if isinstance(cell, str) else cell for cell in safe.iloc[:, place]]
            safe.isetitem(place, cells)
    return safe.to_csv(index=False, lineterminator="\n")


def _no_formula(text: str) -> str:
    return "'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def compact_json(settings: dict[str, Any]) -> str:
    """Settings as one line of JSON, keys sorted."""
    return json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def rows(headings: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *cells]
    return "\n".join("| " + " | ".join(map(_escaped, line)) + " |" for line in lines)


def _escaped(cell: str) -> str:
    return " ".join(cell.split()).replace("|", "\\|")
