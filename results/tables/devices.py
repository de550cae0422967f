"""Points on several devices, beside each other."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from results.devices import FAILED
from results.files import write_atomic
from results.plots.devices import draw
from results.tables.formatting import DIRECTIONS, csv, interval, number, plain, rows


def devices(table: pd.DataFrame) -> list[str]:
    """The names in its columns."""
    return [name.removeprefix("quality[").removesuffix("]") for name in map(str, table) if name.startswith("quality[")]


def places(table: pd.DataFrame) -> list[str]:
    """What its latencies are named by: a device, or a device and a mode of execution."""
    return [name.removeprefix("front[").removesuffix("]") for name in map(str, table) if name.startswith("front[")]


def render(table: pd.DataFrame) -> str:
    """As Markdown."""
    names, metric, better = devices(table), table["metric"].iloc[0], table["better"].iloc[0]
    timed = places(table)
    head = ["point", "GMACs / dense", f"{metric}, {names[0]}"]
    head += [f"{name} less {names[0]} [95 %]" for name in names[1:]]
    for name in timed:
        head += [f"latency / dense, {name} [95 %]", f"latency / limit, {name}"]
    cells = []
    for row in table.to_dict("records"):
        line = [plain(row["point"]), number(row["gmacs"], 3), number(row[f"quality[{names[0]}]"], 4)]
        for name in names[1:]:
            shown = f"{number(row[f'difference[{name}]'], 2)} {interval(row[f'low[{name}]'], row[f'high[{name}]'])}"
            line.append(shown if row[f"agrees[{name}]"] else f"{shown} **differs**")
        for name in timed:
            mark = (" *launch-bound*" if row[f"launch_bound[{name}]"] else "") + (" ●" if row[f"front[{name}]"] else "")
            low, high = row[f"latency_ratio_low[{name}]"], row[f"latency_ratio_high[{name}]"]
            line.append(f"{number(row[f'latency_ratio[{name}]'], 3)} {interval(low, high)}{mark}")
            over = row[f"latency_overhead[{name}]"]
            line.append("" if over is None or math.isnan(over) else number(over, 3))
        cells.append(line)
    note = (
        f"●: on that device's front of `{metric}` ({DIRECTIONS[better]}) against latency. Quality is the first "
        "device's; the others' differences are paired by image, and **differs** marks an interval without 0. Latencies "
        "are ratios to dense on the same device in the same mode of execution, eager where none is named; limit: dense "
        "on as many tokens; *launch-bound*: the device idled through more than a quarter of it, so that the latency is "
        "the host's."
    )
    lost = (
        [f"Failed, and in no row or front: {plain('; '.join(table.attrs[FAILED]))}."] if table.attrs.get(FAILED) else []
    )
    return "\n\n".join(["# Devices side by side", rows([*map(plain, head)], cells), *lost, note]) + "\n"


def write(table: pd.DataFrame, folder: Path) -> list[Path]:
    """tables/devices.csv, devices.md and plots/devices.png below a folder."""
    return [
        write_atomic(folder / "tables" / "devices.csv", csv(table)),
        write_atomic(folder / "tables" / "devices.md", render(table)),
        draw(table, places(table), folder / "plots" / "devices.png"),
    ]
