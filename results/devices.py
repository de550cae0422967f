"""Runs of one workload on several devices, joined by point: one quality, a latency for each device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from results.analysis.compare import differing, same_points
from results.analysis.differences import NotComparable, difference
from results.analysis.headline import headline
from results.analysis.pareto import front
from results.analysis.point_names import point_names
from results.compare import OtherWorkloads
from results.record import Record
from results.run import Run, open_run

_MACHINE = ("device:", "dtype:", "batch:")
"""What may differ between devices; batches are made otherwise and give the same images."""
LATENCIES = ("latency_s", "latency_ratio", "latency_ratio_low", "latency_ratio_high", "latency_overhead")


def side_by_side(folders: Sequence[str | Path]) -> pd.DataFrame:
    """One row per point that all runs have, dense first: `point`, `gmacs` (of dense), `metric`, `better`, and for every
    run, by its device's name, `quality[...]`, the columns of `LATENCIES`, and `front[...]`: whether no other point is
    as good and faster there. `difference[...]`, `low[...]`, `high[...]`: of the quality to the first run's, paired by
    image with its 95 % interval; `agrees[...]`: whether that holds 0.

    Raises NotComparable for fewer than two runs or no common point, OtherWorkloads for runs of different work, and
    StoreError for a folder that is no run.
    """
    runs = [open_run(folder) for folder in folders]
    if len(runs) < 2:
        raise NotComparable("give two runs or more, each from another device")
    names = _names(runs)
    rows = [_usable(runs[0].records)] + [_matched(runs[0], run) for run in runs[1:]]
    shared = [record for record in rows[0].values() if all(record.key in one for one in rows)]
    if not shared:
        raise NotComparable("no point is in all runs: run the same methods at the same settings on each device")
    measured = headline(shared)
    if measured is None:
        raise NotComparable("the points have no metric with values per image, by which devices could be checked")
    labels = point_names(shared)
    dense = next((record for record in shared if record.method == "dense"), None)
    found = []
    for record in shared:
        row: dict[str, object] = {
            "point": labels[record.key],
            "gmacs": _relative(record, dense),
            "metric": measured.name,
            "better": measured.estimate.better,
        }
        for name, one in zip(names, rows, strict=True):
            row |= _columns(record, one[record.key], name, measured.name)
        found.append(row)
    table = pd.DataFrame(found)
    for name in names:
        latency, quality = table[f"latency_ratio[{name}]"], table[f"quality[{name}]"]
        whole = latency.notna() & quality.notna()
        table[f"front[{name}]"] = False
        table.loc[whole, f"front[{name}]"] = front(latency[whole], quality[whole], measured.estimate.better or "lower")
    return table


def _names(runs: Sequence[Run]) -> list[str]:
    found: list[str] = []
    for run in runs:
        name = next((record.device for record in run.records), "none")
        found.append(f"{name} ({found.count(name) + 1})" if name in found else name)
    return found


def _usable(records: Sequence[Record]) -> dict[str, Record]:
    return {record.key: record for record in records if record.usable}


def _matched(first: Run, other: Run) -> dict[str, Record]:
    """The other run's records by the keys of the first one's."""
    pairs = same_points(first.records, other.records)
    different = dict.fromkeys(
        line for one, theirs in pairs for line in differing(one, theirs) if not line.startswith(_MACHINE)
    )
    if different:
        raise OtherWorkloads(list(different))
    return {one.key: theirs for one, theirs in pairs}


def _relative(record: Record, dense: Record | None) -> float | None:
    if dense is None or "gmacs" not in record.estimates or "gmacs" not in dense.estimates:
        return None
    return record.estimates["gmacs"].value / dense.estimates["gmacs"].value


def _columns(first: Record, own: Record, name: str, metric: str) -> dict[str, object]:
    value = own.estimates.get(metric)
    out: dict[str, object] = {f"quality[{name}]": None if value is None else value.value}
    for column in LATENCIES:
        base, _, bound = column.rpartition("_") if column.endswith(("_low", "_high")) else (column, "", "")
        estimate = own.estimates.get(base)
        out[f"{column}[{name}]"] = getattr(estimate, bound or "value", None)
    if own is not first and value is not None:
        paired = difference(own, first, metric, lambda *_: _none(), lambda *_: _none())
        out |= {f"difference[{name}]": paired.value, f"low[{name}]": paired.low, f"high[{name}]": paired.high}
        out[f"agrees[{name}]"] = paired.low is None or paired.high is None or paired.low <= 0 <= paired.high
    return out


def _none() -> None:
    return None
