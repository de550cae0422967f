"""Bars of what each axis of a method is worth."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from results.plots.png import write_png
from results.tables.formatting import DIRECTIONS, percent

ALL = "all"
"""In place of a seed: over all of them."""
_CLAIM = ("method", "ratio", "task", "axis", "control", "form")
_COLOURS = {"swapped": "#56B4E9", "refitted": "#0072B2"}


def method_names(table: pd.DataFrame) -> list[str]:
    """Of each row, with the settings of the task where there are several."""
    several = table["task"].nunique() > 1
    return [f"{row['method']} {row['task']}" if several else str(row["method"]) for row in table.to_dict("records")]


def counted(table: pd.DataFrame) -> pd.Series[bool]:
    """Whether a row of one metric speaks for its claim: the one over all seeds, where it has several."""
    over_seeds = table["seed"] == ALL
    several = over_seeds.groupby([table[name] for name in _CLAIM], dropna=False).transform("any")
    return over_seeds | ~several


def bars(table: pd.DataFrame, metric: str, path: str | Path) -> Path:
    """One bar per control with its 95 % interval: method less control in one metric. Writes a PNG, returns its path."""
    some = table[table["metric"] == metric]
    some = some[counted(some)]
    labels = [
        f"{row['axis']}: {row['control']}\n{name} {percent(row['ratio'])}, {row['form']}"
        for name, row in zip(method_names(some), some.to_dict("records"), strict=True)
    ]
    figure = Figure(figsize=(8.4, 0.62 * len(some) + 1.6), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(some))
    axes.barh(places, some["difference"], color=[_COLOURS[form] for form in some["form"]], height=0.6)
    axes.hlines(places, some["low"].astype(float), some["high"].astype(float), color="#222222", linewidth=1.6)
    axes.axvline(0, color="#222222", linewidth=1)
    axes.set_yticks(places, labels, fontsize=9)
    axes.invert_yaxis()
    axes.set_axisbelow(True)
    axes.grid(axis="x", color="#e9e9e9")
    axes.spines[["top", "right"]].set_visible(False)
    better = DIRECTIONS[some["better"].iloc[0]]
    axes.set_xlabel(f"{metric}: method less control ({better}; bars: 95 % intervals, n = {some['n'].iloc[0]})")
    axes.set_title("What each axis is worth, at equal cost", fontsize=11, loc="left")
    return write_png(figure, path)
