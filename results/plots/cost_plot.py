"""How cost grows with a setting of the task, such as the area of a mask."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from results.analysis.point_names import variants
from results.plots.look import COLOURS, MARKERS
from results.plots.png import NO_MATH, write_png
from results.record import Estimate, Record
from results.tables.formatting import percent


def swept(records: Sequence[Record]) -> list[str]:
    """The numeric task settings that take several values."""
    names = dict.fromkeys(name for record in records for name in record.task_settings)
    found = []
    for name in names:
        values = {record.task_settings.get(name) for record in records}
        if len(values) > 1 and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
            found.append(name)
    return found


@mpl.rc_context(NO_MATH)
def cost_by(records: Sequence[Record], setting: str, path: str | Path) -> Path:
    """GMACs and seconds against a setting, one line per strategy, method and ratio. Writes a PNG, returns its path."""
    rest = {
        r.key: r.model_copy(update={"task_settings": {k: v for k, v in r.task_settings.items() if k != setting}})
        for r in records
        if r.usable
    }
    names = variants(rest.values(), seeds=False)
    lines: dict[str, list[Record]] = {}
    for record in records:
        if record.usable:
            lines.setdefault(f"{names[record.key]} {percent(record.ratio)}".strip(), []).append(record)
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    for axes, cost in zip(figure.subplots(1, 2), ("gmacs", "latency_s"), strict=True):
        looks = zip(cycle(COLOURS), cycle(MARKERS), strict=False)
        for (name, members), (colour, marker) in zip(lines.items(), looks, strict=False):
            points: dict[float, list[Estimate]] = {}  # training seeds together
            for record in sorted(members, key=lambda r: r.task_settings[setting]):
                if cost in record.estimates:
                    points.setdefault(record.task_settings[setting], []).append(record.estimates[cost])
            means = [sum(e.value for e in some) / len(some) for some in points.values()]
            axes.plot(list(points), means, color=colour, marker=marker, linewidth=1.2, markersize=6, label=name)
            for value, some in points.items():
                lows, highs = [e.low for e in some if e.low is not None], [e.high for e in some if e.high is not None]
                if lows and highs:
                    axes.vlines(value, min(lows), max(highs), color=colour, linewidth=1.6)
        unit = {"gmacs": "GMACs per image and sampling step, CFG included", "latency_s": "seconds per image, batch 1"}
        axes.set(xlabel=setting, ylabel=unit[cost], ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9)
    about = f"Cost by {setting}; the denoiser alone on the left; bars: 95 % intervals, of all training seeds"
    figure.suptitle(about, fontsize=10, x=0.01, ha="left")
    return write_png(figure, path)
