"""Runs of one workload on several devices, joined by point: one quality, a latency for each device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from results.analysis import modes
from results.analysis.compare import differing, same_points
from results.analysis.differences import NotComparable, difference
from results.analysis.headline import headline
from results.analysis.pareto import front
from results.analysis.point_names import point_names
from results.compare import OtherWorkloads
from results.record import Record
from results.run import Run, open_run
from results.tables.formatting import compact_json

_MACHINE = ("device:", "dtype:", "batch:")
"""What may differ between devices; batches are made otherwise and give the same images."""
FAILED = "failed"
"""Where a table (its `attrs`) says which points have no row since they failed on a device."""
LATENCIES = ("latency_s", "latency_ratio", "latency_ratio_low", "latency_ratio_high", "latency_overhead")


def side_by_side(folders: Sequence[str | Path]) -> pd.DataFrame:
    """One row per point that all runs have, dense first: `point`, `gmacs` (of dense), `metric`, `better`, and for every
    run, by its device's name, `quality[...]`. `difference[...]`, `low[...]`, `high[...]`: of the quality to the first
    run's, paired by image with its 95 % interval; `agrees[...]`: whether that holds 0. For every mode of execution that
    a device was timed in, by the device's name and, other than eager, the mode (`[NAME, compile]`): the columns of
    `LATENCIES`, `front[...]`: whether no other point is as good and faster there, and `launch_bound[...]`: whether
    the latency is the host's.

    Dense, and the other points of a front, are those under the same settings of the task. What failed somewhere is in
    `attrs[FAILED]`.

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
    for folder, one in zip(folders, rows, strict=True):
        if any(measured.name not in one[record.key].estimates for record in shared):
            raise NotComparable(f"{folder} has no {measured.name}, by which devices are checked")
    labels = point_names(shared)
    references = {_task(record): record for record in shared if record.method == "dense"}
    timed = [
        (
            name,
            list(dict.fromkeys(at for record in shared for at in modes.of(one[record.key].estimates))) or [modes.EAGER],
        )
        for name, one in zip(names, rows, strict=True)
    ]
    found = []
    for record in shared:
        dense = references.get(_task(record))
        row: dict[str, object] = {
            "point": labels[record.key],
            "gmacs": _relative(record, dense),
            "metric": measured.name,
            "better": measured.estimate.better,
        }
        for (name, executed), one in zip(timed, rows, strict=True):
            own = one[record.key]
            row |= _quality(record, own, name, measured.name)
            for mode in executed:
                row |= _latency(own, dense and one[dense.key], mode, place(name, mode))
        found.append(row)
    lost = dict.fromkeys(
        f"{point_names([record])[record.key]} ({name}: {record.reason})"
        for name, run in zip(names, runs, strict=True)
        for record in run.records
        if not record.usable
    )
    table, tasks = pd.DataFrame(found), pd.Series([_task(record) for record in shared])
    for name, executed in timed:
        for where in (place(name, mode) for mode in executed):
            latency, quality = table[f"latency_ratio[{where}]"].astype(float), table[f"quality[{name}]"]
            whole = latency.notna() & quality.notna()
            table[f"front[{where}]"] = False
            for members in tasks.groupby(tasks).groups.values():  # others' ratios are to another dense
                inside = whole & table.index.isin(members)
                ahead = front(latency[inside], quality[inside], measured.estimate.better or "lower")
                table.loc[inside, f"front[{where}]"] = ahead
    table.attrs[FAILED] = list(lost)
    return table


def place(device: str, mode: str) -> str:
    """What latencies of a device in a mode are named by."""
    return device if mode == modes.EAGER else f"{device}, {mode}"


def _names(runs: Sequence[Run]) -> list[str]:
    devices = [next((record.device for record in run.records), "none") for run in runs]
    machines = [next((record.hardware for record in run.records), "none") for run in runs]
    found: list[str] = []
    for device, machine in zip(devices, machines, strict=True):
        name = machine if devices.count(device) > 1 and len(set(machines)) > 1 else device
        taken = (f"{name} ({number})" for number in range(2, len(runs) + 1) if f"{name} ({number})" not in found)
        found.append(next(taken) if name in found else name)
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


def _task(record: Record) -> str:
    return compact_json(record.task_settings)


def _relative(record: Record, dense: Record | None) -> float | None:
    if dense is None or "gmacs" not in record.estimates or "gmacs" not in dense.estimates:
        return None
    return record.estimates["gmacs"].value / dense.estimates["gmacs"].value


def _quality(first: Record, own: Record, name: str, metric: str) -> dict[str, object]:
    value = own.estimates.get(metric)
    out: dict[str, object] = {f"quality[{name}]": None if value is None else value.value}
    if own is not first and value is not None:
        paired = difference(own, first, metric, lambda *_: _none(), lambda *_: _none())
        out |= {f"difference[{name}]": paired.value, f"low[{name}]": paired.low, f"high[{name}]": paired.high}
        out[f"agrees[{name}]"] = paired.low is None or paired.high is None or paired.low <= 0 <= paired.high
    return out


def _latency(own: Record, dense: Record | None, mode: str, where: str) -> dict[str, object]:
    out: dict[str, object] = {}
    for column in LATENCIES:
        base, _, bound = column.rpartition("_") if column.endswith(("_low", "_high")) else (column, "", "")
        estimate = own.estimates.get(modes.named(base, mode))
        out[f"{column}[{where}]"] = getattr(estimate, bound or "value", None)
    out[f"launch_bound[{where}]"] = modes.launch_bound([own, *([dense] if dense else [])], mode)
    return out


def _none() -> None:
    return None
