"""Methods at equal cost: one table per budget, from records and what the search for their settings found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from results.analysis import modes
from results.analysis.budgets import evaluated
from results.analysis.points import led_to
from results.files import write_atomic
from results.record import Record
from results.tables.formatting import DIRECTIONS, code, compact_json, csv, interval, number, plain, rows, setup

DENSE = "dense"
_SHOWN = ("latency_ratio", "gmacs")


def write_matched(records: Sequence[Record], matches: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Write tables/matched.csv and matched.md below `folder`. matches: fields of `harness.matches.Match`, and `met`."""
    frame = matched(records, matches)
    return [
        write_atomic(folder / "tables" / "matched.csv", csv(frame)),
        write_atomic(folder / "tables" / "matched.md", _document(records, frame)),
    ]


def matched(records: Sequence[Record], matches: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per match: the match's fields, and the estimates of the point that it led to, with their bounds.
    `evaluated`: the cost that was tuned, relative to dense, on the evaluation's cases; `held`: whether the budget is
    not excluded there. `task` is there where searches were made under several settings of the task."""
    several = len({compact_json(match.get("task_settings", {})) for match in matches}) > 1
    rows = []
    for match in matches:
        found = next((record for record in records if led_to(match, record)), None)
        row = {k: v for k, v in match.items() if k not in ("settings", "chosen", "rests_on", "task_settings")}
        if several:
            row["task"] = compact_json(match.get("task_settings", {}))
        row["settings"] = compact_json(match["settings"]) if match["settings"] else ""
        if found is not None and match["strength"] is not None:
            row |= {"outcome": found.outcome} | _estimates(found)
            here = evaluated(match, found, records)
            row |= {"evaluated": here and here.value, "held": here and here.held}
        rows.append(row)
    return pd.DataFrame(rows)


def _estimates(record: Record) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for name, estimate in record.estimates.items():
        if modes.base(name) in _SHOWN or (estimate.role == "quality" and estimate.better):
            cells |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return cells


def _document(records: Sequence[Record], frame: pd.DataFrame) -> str:
    references = [r for r in records if r.method == DENSE]
    dense = references[0]
    quality = {name: e for r in references for name, e in r.estimates.items() if e.role == "quality" and e.better}
    quality |= {n: e for r in records for n, e in r.estimates.items() if e.role == "quality" and e.better}
    costs = modes.variants(_SHOWN, map(str, frame.columns))
    names = [*costs, *(name for name in quality if name in frame.columns)]
    axes = " and ".join(dict.fromkeys(frame["axis"]))
    several = "task" in frame.columns
    unseen = "" if dense.fingerprint.get("split") == "calibration" else ", which the evaluation does not see"
    parts = [
        f"# Methods at equal {axes}",
        f"{setup(dense)}. Every method's one strength setting was tuned on calibration cases{unseen}, until its "
        f"{axes} relative to dense met the budget within 1 %; `tuned` is what it was there. "
        "The other columns are measured on the evaluation's cases. [low, high]: 95 % bootstrap interval. *closest*: a "
        "method that comes no nearer than that, within 5 %; one further off is left out. *missed*: met in tuning, and "
        "excluded by what the evaluation measured, which `evaluated` holds.",
        rows(
            ["method", *names],
            [
                [f"{DENSE} {code(compact_json(one.task_settings)) if several else ''}".strip(),
                 *_cells(_estimates(one), names)]
                for one in (references if several else references[:1])
            ],
        ),
    ]  # fmt: skip
    for (axis, budget, *task), members in frame.groupby(["axis", "budget", *["task"] * several], sort=False):
        lines = []
        for row in ({str(k): v for k, v in one.items()} for one in members.to_dict("records")):
            name = f"{plain(row['method'])} {code(row['settings'])}".strip()
            if row["strength"] is None or pd.isna(row["strength"]):
                reason = row.get("reason")  # NaN where another row has one
                left = f"left out: {plain(reason)}" if isinstance(reason, str) and reason else "left out"
                lines.append([name, left, number(row["cost"], 3), *[""] * (1 + len(names))])
                continue
            note = "" if row["met"] else " *closest*"
            note += " *missed*" if row["met"] and row.get("held") is False else ""
            here = row.get("evaluated")
            cells = _cells(row, names) if row.get("outcome") != "failed" else ["failed", *[""] * (len(names) - 1)]
            strength = f"{row['setting']} {row['strength']:.4g}"
            shown = "" if here is None or pd.isna(here) else f"{here:.3f}"
            lines.append([name, strength, f"{row['cost']:.3f}{note}", shown, *cells])
        heading = f"## {axis} {budget:g}" + "".join(f", {code(str(one))}" for one in task)
        parts += [heading, rows(["method", "setting", "tuned", "evaluated", *names], lines)]
    legend = [f"- `{name}`: {e.unit}, {e.convention}; n = {e.sample_size}; {DIRECTIONS[e.better or 'lower']}"
              for name, e in quality.items()]  # fmt: skip
    return "\n\n".join([*parts, "\n".join(legend)]) + "\n"


def _cells(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [f"{number(row.get(n), 3)} {interval(row.get(f'{n}_low'), row.get(f'{n}_high'))}".strip() for n in names]
