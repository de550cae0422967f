"""Points of published tables, each relative to the dense row that it was measured against."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

FOLDER = Path(__file__).resolve().parent.parent / "published"
_COSTS = {"gmacs": "gflops", "latency": "latency_s", "memory": "memory_gb"}
_METRICS = {"fid": "fid", "clip": "clip_score"}


def dense_rows(spec: Mapping[str, Any], frame: pd.DataFrame) -> list[int]:
    """For every row of the table, the place of the dense row that it was measured against."""
    place = {name: index for index, name in reversed(list(enumerate(frame["method"])))}
    return [place[row["dense"]] for row in spec["rows"]]


@cache
def published(task: str) -> list[dict[str, Any]]:
    """The rows of the published tables of a task, but for those that are a dense themselves: `name`, `dense`,
    `inferred` (whether the paper leaves open which dense that is), `about` (table and columns), and, relative to that
    dense, the costs `gmacs`, `latency` and `memory` and the metrics `fid` and `clip`; None where the table has no
    figure."""
    found = []
    for path in sorted(FOLDER.glob("*.yaml")):
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))
        if spec["task"] == task:
            found += _rows(spec, pd.read_csv(FOLDER / spec["csv"]))
    return found


def _rows(spec: Mapping[str, Any], frame: pd.DataFrame) -> list[dict[str, Any]]:
    suffix = spec["setups"][0]["suffix"]
    columns = {name: f"{column}_{suffix}" for name, column in _COSTS.items()} | _METRICS
    found = []
    for index, dense in enumerate(dense_rows(spec, frame)):
        if index == dense:
            continue
        own, other = frame.iloc[index], frame.iloc[dense]
        found.append(
            {"name": f"{own['method']} {100 * own['compression_ratio']:g} %", "dense": str(other["method"]),
             "inferred": bool(spec["rows"][index].get("inferred")), "about": f"{spec['title']}, {suffix}",
             **{name: _ratio(own[column], other[column]) for name, column in columns.items()}}
        )  # fmt: skip
    return found


def _ratio(value: object, by: object) -> float | None:
    """None for an empty cell, and for one that says why there is no figure ("OOM")."""
    try:
        ratio = float(value) / float(by)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return ratio if math.isfinite(ratio) else None
