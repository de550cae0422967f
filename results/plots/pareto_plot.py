"""Pareto plots: cost against quality, one figure per cost axis and metric, drawn from a table alone."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from results.analysis.headline import headline
from results.analysis.modes import base
from results.analysis.point_names import strength, variants
from results.analysis.seeds import several
from results.analysis.sets import RANKING_NEEDS
from results.files import slug, write_atomic
from results.plots import label_placement
from results.plots.look import FAINT, FRONT, LEVEL, STYLE, Look, looks, marker
from results.plots.png import any_letters
from results.plots.window import window
from results.record import Record
from results.tables.formatting import DIRECTIONS, parts, setup, title
from results.tables.table import DENSE, Table

DPI = 160
MANY = 20  # plots from which on a second process is worth its start
_CHILD = """
import pickle, sys
from results.plots.pareto_plot import Table, write_share
records, folder = pickle.load(sys.stdin.buffer)
write_share(Table(records), folder, 1, 2)
"""  # only where all of them are drawn
_OVERVIEW = ("gmacs", "latency_ratio", "latency_s")


def write_plots(table: Table, folder: str | Path, *, everything: bool = True) -> list[Path]:
    """Write Pareto plots of the table as PNG and SVG: those of the headline metric against GMACs and latency into
    `folder`, and all others, where `everything` is asked for, into its folder `more`. Returns the paths.

    One plot per cost axis, metric and group of comparable points; from the second group on, its number is in the
    name: `pareto_gmacs_vs_kid_group-2.png`. Many plots are shared with a second process, which holds no model.
    """
    if sum(1 for _ in _figures(table, everything)) < MANY or (os.cpu_count() or 1) < 2:
        return write_share(table, folder, 0, 1, everything)
    payload = pickle.dumps((table.records, str(folder)))
    with subprocess.Popen([sys.executable, "-c", _CHILD], stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        with suppress(BrokenPipeError), child.stdin as pipe:  # its exit status tells
            pipe.write(payload)
        own = write_share(table, folder, 0, 2, everything)
    if child.returncode:  # a lost child's share is drawn here
        return own + write_share(table, folder, 1, 2, everything)
    return [Path(folder) / f"{name}.{kind}" for name, *_ in _figures(table, everything) for kind in ("png", "svg")]


def write_share(table: Table, folder: str | Path, place: int, of: int, everything: bool = True) -> list[Path]:
    """Write every `of`-th plot, beginning with `place`."""
    written = []
    for index, (name, cost, quality, rows) in enumerate(_figures(table, everything)):
        if index % of == place:
            for kind, content in _images(table, cost, quality, rows):
                written.append(write_atomic(Path(folder) / f"{name}.{kind}", content))
    return written


def _figures(table: Table, everything: bool) -> Iterator[tuple[str, str, str, pd.DataFrame]]:
    """The figures: name below the folder, cost axis, metric and points."""
    first = headline(table.records)
    for cost, quality, points in table.fronts():
        top = first is None or (quality == first.name and base(cost) in _OVERVIEW)
        if not (top or everything):
            continue
        for group, rows in parts(points, "group"):
            suffix = "" if group == 1 else f"_group-{group}"
            yield f"{'' if top else 'more/'}pareto_{slug(cost)}_vs_{slug(quality)}{suffix}", cost, quality, rows


Limits = tuple[float, float] | None
"""Where intervals are cut off; None: nowhere."""


def pareto_figure(table: Table, cost: str, quality: str, points: pd.DataFrame) -> Figure:
    """The figure of one group's `points`, rows of `table.pareto(cost, quality)`."""
    records = {record.key: record for record in table.records}
    chosen, named = looks(table), variants(table.records, seeds=False, strengths=False)
    lines = variants(table.records, strengths=False)
    labels = {key: strength(record) for key, record in records.items()}
    points = points.assign(
        variant=points["key"].map(named), line=points["key"].map(lines), label=points["key"].map(labels)
    )
    height = max(5.4, 0.9 + 0.22 * (points["variant"].nunique() + 4))  # the legend stands above the caption's lines
    figure = Figure(figsize=(9.2, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    axes = figure.add_subplot()
    axes.margins(0.09)
    bounds = [records[key].estimates[cost] for key in points["key"]]
    across = window(points["cost"].tolist(), [e.low for e in bounds], [e.high for e in bounds])
    up = window(*(points[name].tolist() for name in ("quality", "low", "high")))
    ranked = bool(points["on_front"].any())  # sets of few images have no front
    for _, rows in parts(points, "line"):  # a training seed has a line of its own in its variant's look
        rows, look = rows.sort_values(["ratio", "cost"]), chosen[rows["variant"].iloc[0]]
        _draw_method(axes, rows, look, ranked)
        _draw_intervals(axes, rows, records, cost, look.colour, across, up)
    if ranked:
        _draw_front(axes, points[points["on_front"]], table.qualities[quality].better == "higher")
    _draw_dense(axes, points[points["method"] == DENSE])
    about = records[points["key"].iloc[0]], int(points["group"].iloc[0])
    _draw_texts(figure, axes, table, cost, quality, *about, cut=bool(across or up), ranked=ranked)
    _draw_legend(figure, {name: look for name, look in chosen.items() if name in set(points["variant"])}, ranked)
    _draw_labels(figure, axes, points, chosen)
    return figure


def _images(table: Table, cost: str, quality: str, points: pd.DataFrame) -> Iterator[tuple[str, bytes]]:
    """The figure as ("png", bytes) and ("svg", bytes)."""
    with mpl.rc_context(STYLE), any_letters():
        figure = pareto_figure(table, cost, quality, points)
        figure.set_dpi(DPI)
        png, svg = io.BytesIO(), io.BytesIO()
        # Not through savefig, which draws everything once more to settle a layout that is settled already.
        FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
        FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None})
    yield from (("png", png.getvalue()), ("svg", svg.getvalue()))


def _draw_method(axes: Axes, rows: pd.DataFrame, look: Look, ranked: bool) -> None:
    """One method: its points joined in order of its strength; hollow off the front, where there is one."""
    x, y = rows["cost"].to_numpy(), rows["quality"].to_numpy()
    axes.plot(x, y, color=look.colour, linewidth=0.9, alpha=0.55, zorder=3)
    for on_front, part in rows.groupby("on_front"):
        axes.plot(part["cost"], part["quality"], zorder=4, **marker(look, filled=bool(on_front) or not ranked))


def _draw_intervals(
    axes: Axes, rows: pd.DataFrame, records: dict[str, Record], cost: str, colour: str, across: Limits, up: Limits
) -> None:
    """95 % intervals. across, up: where those of the cost and of the quality are cut off, which an arrow shows."""
    bars: dict[str, Any] = {"colors": colour, "linewidth": 1.6, "zorder": 3}
    for row in rows.to_dict("records"):
        x, y, of_cost = row["cost"], row["quality"], records[row["key"]].estimates[cost]
        both = ((True, of_cost.low, of_cost.high, across), (False, row["low"], row["high"], up))
        for flat, low, high, limits in both:
            if pd.isna(low) or pd.isna(high):
                continue
            least, most = limits or (low, high)
            ends = max(low, least), min(high, most)
            axes.hlines(y, *ends, **bars) if flat else axes.vlines(x, *ends, **bars)
            for end, whole, arrow in zip(ends, (low, high), "<>" if flat else "v^", strict=True):
                if end != whole:
                    axes.plot(*((end, y) if flat else (x, end)), marker=arrow, color=colour, zorder=3)


def _draw_front(axes: Axes, points: pd.DataFrame, higher: bool) -> None:
    """The front as steps: between two of its points the cheaper one is the best that can be had."""
    best = points.sort_values("cost")
    axes.plot(best["cost"], best["quality"], drawstyle="steps-post", **FRONT, zorder=2)
    x_limits, y_limits = axes.get_xlim(), axes.get_ylim()
    x, y = np.append(best["cost"], 2 * x_limits[1] - x_limits[0]), np.append(best["quality"], best["quality"].iloc[-1])
    worst = y_limits[0] if higher else y_limits[1]
    beyond = 2 * worst - (y_limits[1] if higher else y_limits[0])
    axes.fill_between(x, y, beyond, step="post", color="black", alpha=0.03, linewidth=0, zorder=0)  # dominated region
    axes.set(xlim=x_limits, ylim=y_limits)


def _draw_dense(axes: Axes, rows: pd.DataFrame) -> None:
    for cost, quality in zip(rows["cost"], rows["quality"], strict=True):
        axes.axvline(cost, **LEVEL, zorder=1)
        axes.axhline(quality, **LEVEL, zorder=1)


def _draw_texts(
    figure: Figure, axes: Axes, table: Table, cost: str, quality: str, record: Record, group: int, *, cut: bool,
    ranked: bool,
) -> None:  # fmt: skip
    """Title, axis labels with unit and direction, and a caption with conventions and sample sizes. cut: whether some
    intervals are cut off. ranked: whether there is a front."""
    x, y = table.costs[cost], table.qualities[quality]
    axes.set_title(f"{quality} against {title(cost)}", fontsize=12.5, fontweight="bold", pad=24)
    axes.text(0, 1.025, setup(record), transform=axes.transAxes, fontsize=9, color="#555555")
    axes.set_xlabel(f"{_with_unit(title(cost), x.unit)}   (← lower is better)")
    arrow = "→" if y.better == "higher" else "←"  # turned by 90 degrees with its label: up, down
    axes.set_ylabel(f"{_with_unit(quality, y.unit)}   ({arrow} {DIRECTIONS[y.better or 'lower']})")
    sizes = f"n = {table.sample_size(quality, group)} for the metric"
    if not table.exact(cost, group):  # a count needs no sample size
        sizes += f", {table.sample_size(cost, group)} for the cost"
    arrows = "; an arrow: it goes on beyond the axis, which the values set" if cut else ""
    front = (
        "Shaded: dominated." if ranked else f"No front: {quality} of fewer than {RANKING_NEEDS:,} images ranks nothing."
    )
    own = " Every training seed is a point of its own." if several(table.records) else ""
    caption = (
        f"{title(cost)}: {x.convention}. {quality}: {y.convention}. {sizes}. Bars: 95 % intervals{arrows}. "
        f"Labels: compression ratio, or the strength setting, where there is room. {front}{own}"
    )
    figure.supxlabel(_wrapped(caption, 150), x=0.015, ha="left", fontsize=8, color="#555555")


def _with_unit(name: str, unit: str) -> str:
    return name if unit in ("", name) else f"{name} [{unit}]"


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width))


def _draw_legend(figure: Figure, chosen: dict[str, Look], ranked: bool) -> None:
    """The variants, then the meaning of lines and fillings, outside on the right."""
    grey = Look(colour=FAINT, marker="o")
    handles = [
        Line2D([], [], color=look.colour, linewidth=0 if name == DENSE else 0.9, **marker(look) | {"linestyle": "-"})
        for name, look in chosen.items()
    ]
    names = [*chosen]
    if ranked:
        handles.append(Line2D([], [], **FRONT))
        handles += [Line2D([], [], **marker(grey, filled=filled)) for filled in (True, False)]
        names += ["Pareto front", "on the front", "dominated"]
    if DENSE in chosen:
        handles.append(Line2D([], [], **LEVEL))
        names.append("level of dense")
    figure.legend(handles, names, loc="outside right upper", labelspacing=0.7)


def _draw_labels(figure: Figure, axes: Axes, points: pd.DataFrame, chosen: dict[str, Look]) -> None:
    """The strength beside each point, where it hides least and no other; needs the final layout, hence comes last."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    pixel = figure.dpi / 72  # pixels per typographic point
    at = axes.transData.transform(points[["cost", "quality"]].to_numpy())  # (P, 2)
    obstacles = [np.hstack([at - 6 * pixel, at + 6 * pixel])]
    obstacles += [label_placement.along(line, spacing=3 * pixel, radius=pixel) for line in _lines(axes)]
    texts = ["dense" if m == DENSE else label for m, label in zip(points["method"], points["label"], strict=True)]
    sizes = np.array([(0.62 * len(text), 1.1) for text in texts]) * 8 * pixel  # (P, 2), of a font of 8 points
    frame = [*axes.bbox.min, *axes.bbox.max]
    centres = label_placement.place(at, sizes, np.vstack(obstacles), frame, gap=4 * pixel)
    halo = [withStroke(linewidth=2.5, foreground="white", alpha=0.85)]
    for text, (x, y), name in zip(texts, axes.transData.inverted().transform(centres), points["variant"], strict=True):
        if np.isnan(x):
            continue
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8, "path_effects": halo, "zorder": 5}
        axes.text(x, y, text, color=_darker(chosen[name].colour), **style)


def _darker(colour: str) -> tuple[float, ...]:
    """The colour with a third of black, so that small letters stand out."""
    return tuple(part * 2 / 3 for part in to_rgb(colour))


def _lines(axes: Axes) -> Iterator[np.ndarray]:
    """Every line that is drawn, curves, steps, bars and levels of dense alike, as corners (P, 2) in pixels."""
    for line in axes.lines:
        corners = np.asarray(line.get_path().vertices)  # (P, 2)
        if line.get_linestyle() != "None" and len(corners):
            steps = line.get_drawstyle() == "steps-post"
            yield line.get_transform().transform(_stepped(corners) if steps else corners)
    for bars in axes.collections:
        if isinstance(bars, LineCollection):
            yield from map(axes.transData.transform, bars.get_segments())


def _stepped(corners: np.ndarray) -> np.ndarray:
    """The corners (2 P - 1, 2) of steps that keep each level of (P, 2) until the next point."""
    doubled = np.repeat(corners, 2, axis=0)  # (2 P, 2)
    return np.stack([doubled[1:, 0], doubled[:-1, 1]], axis=1)
