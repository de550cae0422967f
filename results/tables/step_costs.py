"""The records of a profile: as a CSV file and on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from results.files import write_atomic
from results.record import Record
from results.tables.formatting import csv, interval, number, percent
from results.tables.table import POINT, Table

TASK = "denoiser-step"
"""The task of a record that holds the cost of one denoiser step, and no images."""
_SETUP = ("batch", "size", "text_tokens", "mask_tokens", "mode")
_PARTS = ("attention", "cross_attention", "mlp", "routing", "rest")
_NUMBERS = (
    "gmacs", "gmacs_paper", "latency_s", "latency_ratio", "latency_ratio_low", "latency_ratio_high", "peak_memory_mb",
    "latency_s_low", "latency_s_high",
    *(f"{name}{bound}" for name in ("latency_limit_ratio", "latency_overhead") for bound in ("", "_low", "_high")),
    "peak_resident_mb", "energy_j",
    *(f"gmacs_{name}" for name in _PARTS), *(f"latency_{name}_s" for name in _PARTS),
)  # fmt: skip
_TITLES = {"gmacs": "GMACs", "latency_s": "seconds", "peak_memory_mb": "MiB"}


def frame(table: Table) -> pd.DataFrame:
    """One row per record, always with the same columns: those of results.csv that apply, what a step was given, where
    the adapter state came from (`state`), and the cost by part. Empty cells are NaN."""
    found = table.frame.assign(state=[record.environment.get("state", "") for record in table.records])
    place = POINT.index("task") + 1
    points = [name for name in POINT[place:] if name not in ("steps", "cases")]
    found["mode"] = found["mode"].fillna("eager") if "mode" in found else "eager"
    columns = [*POINT[:place], *_SETUP, *points, "state", "outcome", "reason", *_NUMBERS, "key"]
    return found.reindex(columns=columns)


def to_csv(table: Table, path: str | Path) -> Path:
    """Every digit of every number."""
    return write_atomic(path, csv(frame(table)))


def show(table: Table, console: Console) -> None:
    """A table of costs and one of their parts for every batch and size."""
    for members in _setups(table.records):
        first = members[0]
        about = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in first.task_settings.items())
        title = f"{first.model}, {about}, {first.device}, {first.dtype}: one denoiser step"
        console.print(_costs(members, title))
        console.print(_parts(members))


def _setups(records: Sequence[Record]) -> Iterator[list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(repr(record.task_settings), []).append(record)
    yield from found.values()


def _costs(records: Sequence[Record], title: str) -> RichTable:
    shown = [name for name in _TITLES if any(name in r.estimates for r in records)]
    timed = "latency_s" in shown
    drawn = RichTable(
        "method",
        "ratio",
        *(_TITLES[name] for name in shown),
        title=title,
        box=box.SIMPLE,
        title_justify="left",
        padding=(0, 1, 0, 0),
    )
    drawn.add_column("of dense", justify="right")
    if timed:
        drawn.add_column("latency / dense", justify="right")
        drawn.add_column("limit / dense", justify="right")
        drawn.add_column("latency / limit", justify="right")
    dense = records[0].estimates
    for r in records:
        cells = [number(r.estimates[name].value, 4) if name in r.estimates else "" for name in shown]
        both = "gmacs" in r.estimates and "gmacs" in dense
        cells.append(number(r.estimates["gmacs"].value / dense["gmacs"].value, 3) if both else r.outcome)
        if timed and (ratio := r.estimates.get("latency_ratio")):
            cells.append(f"{number(ratio.value, 3)}\n{interval(ratio.low, ratio.high)}")
        if timed and (over := r.estimates.get("latency_overhead")):
            cells.append(number(r.estimates["latency_limit_ratio"].value, 3))
            cells.append(f"{number(over.value, 3)}\n{interval(over.low, over.high)}")
        drawn.add_row(r.method, percent(r.ratio), *cells)
    return drawn


def _parts(records: Sequence[Record]) -> RichTable:
    names = [name.replace("_", "-") for name in _PARTS]
    drawn = RichTable(
        "method",
        "ratio",
        *names,
        title="GMACs by part, and seconds where timed",
        box=box.SIMPLE,
        title_justify="left",
        padding=(0, 1, 0, 0),
    )
    for r in records:
        cells = []
        for name in _PARTS:
            macs, seconds = r.estimates.get(f"gmacs_{name}"), r.estimates.get(f"latency_{name}_s")
            text = "" if macs is None else number(macs.value, 4)
            cells.append(text if seconds is None else f"{text}\n{number(seconds.value, 3)} s")
        drawn.add_row(r.method, percent(r.ratio), *cells)
    return drawn
