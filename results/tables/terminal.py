"""A table for the terminal, at most 120 columns wide, drawn with rich."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from results.analysis.point_names import variants
from results.record import Estimate, Record
from results.tables.formatting import DIRECTIONS, asked_and_reached, interval, number, point, setup, title

if TYPE_CHECKING:
    from results.tables.table import Table

WIDTH = 120
_Marks = dict[tuple[str, str], str]  # (key, metric) -> the letters of the cost axes on whose front the point is


def show(table: Table, console: Console) -> None:
    """Print every group of comparable points, as many metrics to a table as fit, and the reasons of failures."""
    width = min(console.width, WIDTH)
    marks = _front_marks(table)
    for group in table.groups:
        for metrics in _fitting(table, group, marks, console, width):
            console.print(_rich_table(table, group, metrics, marks), width=width)
    if any(marks.values()):
        letters = ", ".join(f"{_letter(cost)} {title(cost)}" for cost in table.costs)
        console.print(Text(f"On the Pareto front by cost axis: {letters}. [low, high]: 95 % interval."), width=width)
    for record in table.failed():
        console.print(Text(f"failed: {point(record.method, record.ratio)}: {record.reason}", "red"), width=width)


def _front_marks(table: Table) -> _Marks:
    marks: _Marks = {}
    for cost, quality, points in table.fronts():
        for key in points.loc[points["on_front"], "key"]:
            marks[key, quality] = marks.get((key, quality), "") + _letter(cost)
    return marks


def _letter(cost: str) -> str:
    return cost[0].upper()


def _fitting(
    table: Table, group: list[Record], marks: _Marks, console: Console, width: int
) -> Iterator[tuple[str, ...]]:
    """The metrics in portions, each of which fits the width (a single one may have to wrap)."""
    unlimited = console.options.update(max_width=10_000)
    portion: tuple[str, ...] = ()
    for metric in table.qualities:
        wider = _rich_table(table, group, (*portion, metric), marks)
        if portion and console.measure(wider, options=unlimited).maximum > width:
            yield portion
            portion = ()
        portion = (*portion, metric)
    yield portion


def _rich_table(table: Table, group: list[Record], metrics: Sequence[str], marks: _Marks) -> RichTable:
    drawn = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1), title=Text(setup(group[0])), title_justify="left")
    drawn.add_column("method", max_width=24, overflow="fold")
    drawn.add_column("ratio", justify="right")
    for cost in table.costs:
        drawn.add_column(Text(_heading(title(cost), table.costs[cost])), justify="right")
    for metric in metrics:
        drawn.add_column(Text(_heading(metric, table.qualities[metric])), justify="right", overflow="fold")
    drawn.add_column("outcome")
    names = variants(table.records)
    for record in group:
        name = Text(record.method, "bold")
        for part in names[record.key].split()[1:]:
            name.append(f"\n{part}", "not bold dim")
        estimates = record.estimates if record.usable else {}
        drawn.add_row(
            name,
            asked_and_reached(record.ratio, record.ratio_reached),
            *(_cell(estimates.get(cost)) for cost in table.costs),
            *(_cell(estimates.get(metric), marks.get((record.key, metric), "")) for metric in metrics),
            Text(record.outcome, "" if record.outcome == "ok" else "red"),
        )
    return drawn


def _heading(name: str, estimate: Estimate) -> str:
    direction = f"\n{DIRECTIONS[estimate.better]}" if estimate.role == "quality" and estimate.better else ""
    unit = f"\n{estimate.unit}" if not direction and estimate.unit not in (name, "") else ""
    return name + unit + direction


def _cell(estimate: Estimate | None, mark: str = "") -> Text:
    if estimate is None:
        return Text("")
    text = Text(number(estimate.value))
    if mark:
        text.append(f" {mark}", "bold green")
    if bounds := interval(estimate.low, estimate.high):
        text.append(f"\n{bounds}", "dim")
    return text
