"""Quality against latency, one panel per device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from results.plots.look import COLOURS, FRONT, MARKERS, STYLE
from results.plots.png import write_png
from results.tables.formatting import DIRECTIONS


def draw(table: pd.DataFrame, devices: Sequence[str], path: Path) -> Path:
    """table: see `results.devices.side_by_side`. Writes a PNG and returns its path."""
    methods = list(dict.fromkeys(str(point).partition(" ")[0] for point in table["point"]))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.2 + 4.6 * len(devices), 4.2), layout="constrained")
        panels = figure.subplots(1, len(devices), sharex=True, sharey=True, squeeze=False)[0]
        for axes, device in zip(panels, devices, strict=True):
            x, y = table[f"latency_ratio[{device}]"], table[f"quality[{devices[0]}]"]
            ahead = table[table[f"front[{device}]"]].sort_values(f"latency_ratio[{device}]")
            axes.plot(ahead[f"latency_ratio[{device}]"], ahead[f"quality[{devices[0]}]"], zorder=1, **FRONT)
            for place, method in enumerate(methods):
                own = table["point"].astype(str).str.partition(" ")[0] == method
                low, high = (table[f"latency_ratio_{side}[{device}]"][own].fillna(x[own]) for side in ("low", "high"))
                axes.hlines(y[own], low, high, color=COLOURS[place % len(COLOURS)], linewidth=1.2, alpha=0.7)
                axes.plot(
                    x[own], y[own], MARKERS[place % len(MARKERS)], color=COLOURS[place % len(COLOURS)], label=method,
                    markersize=6, linestyle="",
                )  # fmt: skip
            axes.axvline(1, color="#8a8a8a", linewidth=1, linestyle=(0, (4, 3)))
            axes.set_title(device)
            axes.set_xlabel("latency / dense on this device (95 % intervals)")
        panels[0].set_ylabel(f"{table['metric'].iloc[0]} ({DIRECTIONS[table['better'].iloc[0]]})")
        panels[-1].legend(loc="upper left", bbox_to_anchor=(1, 1))
        return write_png(figure, path)
