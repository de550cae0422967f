"""Quality against latency, one panel per device and mode of execution."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from results.plots.look import COLOURS, FRONT, MARKERS, STYLE
from results.plots.png import write_png
from results.tables.formatting import DIRECTIONS


def draw(table: pd.DataFrame, places: Sequence[str], path: Path) -> Path:
    """table: see `results.devices.side_by_side`. places: what its latencies are named by. Writes a PNG and returns its
    path."""
    quality = next(str(name) for name in table if str(name).startswith("quality["))
    methods = list(dict.fromkeys(str(point).partition(" ")[0] for point in table["point"]))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.2 + 4.6 * len(places), 4.2), layout="constrained")
        panels = figure.subplots(1, len(places), sharex=True, sharey=True, squeeze=False)[0]
        for axes, place in zip(panels, places, strict=True):
            x, y = table[f"latency_ratio[{place}]"], table[quality]
            ahead = table[table[f"front[{place}]"]].sort_values(f"latency_ratio[{place}]")
            axes.plot(ahead[f"latency_ratio[{place}]"], ahead[quality], zorder=1, **FRONT)
            for at, method in enumerate(methods):
                own = table["point"].astype(str).str.partition(" ")[0] == method
                low, high = (table[f"latency_ratio_{side}[{place}]"][own].fillna(x[own]) for side in ("low", "high"))
                axes.hlines(y[own], low, high, color=COLOURS[at % len(COLOURS)], linewidth=1.2, alpha=0.7)
                axes.plot(
                    x[own], y[own], MARKERS[at % len(MARKERS)], color=COLOURS[at % len(COLOURS)], label=method,
                    markersize=6, linestyle="",
                )  # fmt: skip
            axes.axvline(1, color="#8a8a8a", linewidth=1, linestyle=(0, (4, 3)))
            axes.set_title(place)
            axes.set_xlabel("latency / dense on this device (95 % intervals)")
        panels[0].set_ylabel(f"{table['metric'].iloc[0]} ({DIRECTIONS[table['better'].iloc[0]]})")
        panels[-1].legend(loc="upper left", bbox_to_anchor=(1, 1))
        return write_png(figure, path)
