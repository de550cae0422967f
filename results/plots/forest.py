"""A forest plot: paired differences with their intervals, one line per comparison, in blocks of one budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from results.analysis.verdict_types import Compared, Section
from results.plots.png import NO_MATH, write_png
from results.tables.formatting import DIRECTIONS, percent

_COLOURS = {
    "better": "#0072B2", "no worse than margin": "#009E73", "worse": "#D55E00", "not distinguishable": "#777777",
}  # fmt: skip


def forest(section: Section, path: str | Path) -> Path:
    """Each point less dense, or less its best rival where dense has no figure, with 95 % intervals and the margin.
    Writes a PNG and returns its path."""
    blocks = [(block.title, block.to_dense or block.to_rival) for block in section.blocks]
    lines = [(title, place, one) for title, some in blocks for place, one in enumerate(some)]
    with mpl.rc_context(NO_MATH):
        return write_png(_figure(section, lines), path)


def _figure(section: Section, lines: Sequence[tuple[str, int, Compared]]) -> Figure:
    figure = Figure(figsize=(8.4, 0.34 * len(lines) + 1.9), layout="constrained")
    axes = figure.add_subplot()
    relative = bool(section.dense)  # of a mean of 0 nothing is a share; else in % of the comparator's own mean
    places, gap = [], 0.0
    for index, (_, place, _) in enumerate(lines):
        gap += 0.6 if index and place == 0 else 0.0
        places.append(index + gap)
    for where, (_, _, one) in zip(places, lines, strict=True):
        scale = 100 * (one.share or 1 / abs(section.dense)) if relative and section.dense else 1.0
        colour = _COLOURS[one.word]
        if one.low is not None and one.high is not None:
            axes.hlines(where, one.low * scale, one.high * scale, color=colour, linewidth=2)
        axes.plot(one.difference * scale, where, "o", color=colour, markersize=6)
    axes.axvline(0, color="#222222", linewidth=1)
    if section.margin is not None and relative:
        limit = 100 * section.margin * (1 if section.better == "lower" else -1)
        axes.axvline(limit, color="#009E73", linewidth=1, linestyle="--")
    axes.set_yticks(places, [_label(title, one, relative) for title, _, one in lines], fontsize=9)
    axes.invert_yaxis()
    axes.set_axisbelow(True)
    axes.grid(axis="x", color="#e9e9e9")
    axes.spines[["top", "right"]].set_visible(False)
    unit = "% of dense's" if relative else section.unit
    about = DIRECTIONS[section.better or "lower"]
    axes.set_xlabel(f"{section.metric}: paired difference in {unit} ({about}; 95 % intervals, n = {section.n})")
    for word, colour in _COLOURS.items():
        if any(one.word == word for _, _, one in lines):
            axes.plot([], [], "o-", color=colour, label=word)
    if section.margin is not None and relative:
        axes.plot([], [], "--", color="#009E73", label=f"margin {percent(section.margin)}")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    axes.set_title("Against dense" if relative else "Against the best rival", fontsize=11, loc="left")
    return figure


def _label(title: str, one: Compared, relative: bool) -> str:
    name = one.method if relative else f"{one.method} - {one.comparator}"
    return name if title in name or title == "other settings" else f"{name} ({title})"
