"""How compression ratios moved during a fit, drawn from its logs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from results.plots.png import write_png


def trajectories(logs: Sequence[Path], path: str | Path, *, title: str) -> Path | None:
    """Ratios against optimizer steps, by layer and (where there are several) by timestep region, as a PNG.

    logs: the CSV of each stage in turn, with a column "ratio/<layer>/<region>" per learned ratio. Returns the
    picture's path, or None where no log holds such columns.
    """
    table = _joined(logs)
    columns = [str(name) for name in table]
    cells = {tuple(map(int, m.groups())): name for name in columns if (m := re.fullmatch(r"ratio/(\d+)/(\d+)", name))}
    if not cells:
        return None
    steps = table["step"].to_numpy()
    layers, regions = (1 + max(cell[axis] for cell in cells) for axis in (0, 1))
    values = np.stack([[table[cells[i, r]] for r in range(regions)] for i in range(layers)])  # (L, R, steps)
    panels = 2 if regions > 1 else 1
    figure = Figure(figsize=(5.6 * panels, 3.8), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False, sharey=True)[0]
    _lines(axes[0], steps, values.mean(1), "layer", "viridis")
    if regions > 1:
        _lines(axes[1], steps, values.mean(0), "region (1 is the noisiest)", "plasma", first=1)
    for axis in axes:
        axis.plot(steps, table["ratio"], color="#222222", linestyle="--", linewidth=1.5, label="mean")
        axis.set_xlabel("optimizer step")
        axis.grid(color="#e9e9e9")
        axis.legend(fontsize=7, ncols=2)
    axes[0].set_ylabel("compression ratio")
    figure.suptitle(title, fontsize=11)
    return write_png(figure, path)


def _joined(logs: Sequence[Path]) -> pd.DataFrame:
    """The stages' logs in one table whose steps count on."""
    parts, done = [], 0
    for log in logs:
        if log.is_file() and len(part := pd.read_csv(log) if log.stat().st_size else pd.DataFrame()):
            part["step"] += done
            done = int(part["step"].iloc[-1]) + 1
            parts.append(part)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"step": []})


def _lines(axis: Axes, steps: np.ndarray, values: np.ndarray, what: str, colours: str, first: int = 0) -> None:
    """One line per row of values (rows, steps)."""
    map_ = colormaps[colours]
    for row, line in enumerate(values):
        colour = map_(0.9 * row / max(1, len(values) - 1))
        axis.plot(steps, line, color=colour, linewidth=1.3, label=f"{what.split()[0]} {row + first}")
    axis.set_title(f"by {what}", fontsize=10)
