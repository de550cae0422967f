"""Methods at equal cost: one table per budget, from records and what the search for their settings found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from results.files import write_atomic
from results.record import Record
from results.tables.formatting import DIRECTIONS, code, compact_json, csv, interval, number, plain, rows, setup

DENSE = "dense"
_SHOWN = ("latency_ratio", "gmacs")


def write_matched(records: Sequence[Record], matches: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Write tables/matched.csv and matched.md below `folder`. matches: fields of `harness.budgets.Match`, and `met`."""
    frame = matched(records, matches)
    return [
        write_atomic(folder / "tables" / "matched.csv", csv(frame)),
        write_atomic(folder / "tables" / "matched.md", _document(records, frame)),
    ]


def matched(records: Sequence[Record], matches: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per match: the match's fields, and the estimates of the point that it led to, with their bounds."""
    rows = []
    for match in matches:
        found = next((r for r in records if r.method == match["method"] and r.settings == match["chosen"]), None)
        row = {k: v for k, v in match.items() if k not in ("settings", "chosen", "rests_on")}
        row["settings"] = compact_json(match["settings"]) if match["settings"] else ""
        if found is not None and match["strength"] is not None:
            row |= {"outcome": found.outcome} | _estimates(found)
        rows.append(row)
    return pd.DataFrame(rows)


def _estimates(record: Record) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for name, estimate in record.estimates.items():
        if name in _SHOWN or (estimate.role == "quality" and estimate.better):
            cells |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return cells


def _document(records: Sequence[Record], frame: pd.DataFrame) -> str:
    dense = next(r for r in records if r.method == DENSE)
    quality = {name: e for name, e in dense.estimates.items() if e.role == "quality" and e.better}
    quality |= {n: e for r in records for n, e in r.estimates.items() if e.role == "quality" and e.better}
    names = [name for name in (*_SHOWN, *quality) if name in frame.columns]
    axis = frame["axis"].iloc[0]
    parts = [
        f"# Methods at equal {axis}",
        f"{setup(dense)}. Every method's one strength setting was tuned on calibration cases, which the evaluation "
        f"does not see, until its {axis} relative to dense met the budget within 1 %; `tuned` is what it was there. "
        "The other columns are measured on the evaluation's cases. [low, high]: 95 % bootstrap interval. *closest*: a "
        "method that comes no nearer than that, within 5 %; one further off is left out.",
        rows(["method", *names], [[DENSE, *_cells(_estimates(dense), names)]]),
    ]
    for budget, members in frame.groupby("budget", sort=False):
        lines = []
        for row in ({str(k): v for k, v in one.items()} for one in members.to_dict("records")):
            name = f"{plain(row['method'])} {code(row['settings'])}".strip()
            if row["strength"] is None or pd.isna(row["strength"]):
                lines.append([name, "left out", f"{row['cost']:.3f}", *[""] * len(names)])
                continue
            note = "" if row["met"] else " *closest*"
            cells = _cells(row, names) if row.get("outcome") != "failed" else ["failed", *[""] * (len(names) - 1)]
            strength = f"{row['setting']} {row['strength']:.4g}"
            lines.append([name, strength, f"{row['cost']:.3f}{note}", *cells])
        parts += [f"## {axis} {budget:g}", rows(["method", "setting", "tuned", *names], lines)]
    legend = [f"- `{name}`: {e.unit}, {e.convention}; n = {e.sample_size}; {DIRECTIONS[e.better or 'lower']}"
              for name, e in quality.items()]  # fmt: skip
    return "\n\n".join([*parts, "\n".join(legend)]) + "\n"


def _cells(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [f"{number(row.get(n), 3)} {interval(row.get(f'{n}_low'), row.get(f'{n}_high'))}".strip() for n in names]
