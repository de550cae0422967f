"""A table for the terminal, at most 120 columns wide and as narrow as the terminal is, drawn with rich."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from results.analysis import modes
from results.analysis.point_names import variants
from results.record import Estimate, Record
from results.tables.formatting import DIRECTIONS, asked_and_reached, interval, number, point, setup, title

if TYPE_CHECKING:
    from results.tables.table import Table

WIDTH = 120
DROPPED = ("peak_memory_mb", "latency_s", "latency_ratio")
"""Costs that leave a table which is too wide, in this order."""
_Marks = dict[tuple[str, str], str]  # (key, metric) -> the letters of the cost axes on whose front the point is


def show(table: Table, console: Console) -> None:
    """Print every group of comparable points, as many metrics to a table as fit, and the reasons of failures.

    Where even one metric does not fit beside the costs, these leave the table in the order of `DROPPED`, and a line
    says so; costs stand in the first table of a group alone.
    """
    width = min(console.width, WIDTH)
    marks = _front_marks(table)
    dropped: dict[str, None] = {}
    for group in table.groups:
        costs = _costs(table, group, marks, console, width)
        dropped |= dict.fromkeys(cost for cost in table.costs if cost not in costs)
        for columns in _fitting(table, group, costs, marks, console, width):
            console.print(_rich_table(table, group, *columns, marks), width=width)
    if any(marks.values()):
        letters = ", ".join(f"{_letter(cost)} {title(cost)}" for cost in table.costs)
        console.print(Text(f"On the Pareto front by cost axis: {letters}. [low, high]: 95 % interval."), width=width)
    if any(modes.fastest(modes.values(record)) for record in table.records):
        console.print(Text("◆: the mode of execution in which the point takes the least seconds."), width=width)
    if dropped:
        names = ", ".join(map(title, dropped))
        note = f"Too wide for {width} columns: {names}; every figure is in tables/results.csv."
        console.print(Text(note), width=width)
    for record in table.failed():
        console.print(
            Text(f"{record.outcome}: {point(record.method, record.ratio)}: {record.reason}", "red"), width=width
        )


def _front_marks(table: Table) -> _Marks:
    marks: _Marks = {}
    for cost, quality, points in table.fronts():
        for key in points.loc[points["on_front"], "key"]:
            marks[key, quality] = marks.get((key, quality), "") + _letter(cost)
    return marks


def _letter(cost: str) -> str:
    """Of a cost axis; in a mode of execution, with the mode's first letters."""
    name, mode = modes.split(cost)
    return name[0].upper() + ("" if mode == modes.EAGER else "".join(part[0] for part in mode.split("+")))


def _costs(table: Table, group: list[Record], marks: _Marks, console: Console, width: int) -> tuple[str, ...]:
    """The cost axes that fit beside one metric."""
    costs, first = tuple(table.costs), tuple(table.qualities)[:1]
    for leaving in DROPPED:
        if _width(_rich_table(table, group, costs, first, marks), console) <= width:
            break
        costs = tuple(cost for cost in costs if modes.base(cost) != leaving)
    return costs


def _fitting(
    table: Table, group: list[Record], costs: tuple[str, ...], marks: _Marks, console: Console, width: int
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Costs and metrics in portions, each of which fits the width (a single one may have to wrap)."""
    portion: tuple[str, ...] = ()
    for metric in table.qualities:
        wider = _rich_table(table, group, costs, (*portion, metric), marks)
        if portion and _width(wider, console) > width:
            yield costs, portion
            costs, portion = (), ()
        portion = (*portion, metric)
    yield costs, portion


def _width(drawn: RichTable, console: Console) -> int:
    """Columns that the table takes where nothing has to wrap."""
    return console.measure(drawn, options=console.options.update(max_width=10_000)).maximum


def _rich_table(
    table: Table, group: list[Record], costs: Sequence[str], metrics: Sequence[str], marks: _Marks
) -> RichTable:
    drawn = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1), title=Text(setup(group[0])), title_justify="left")
    drawn.add_column("method", max_width=24, overflow="fold")
    drawn.add_column("ratio", justify="right")
    for cost in costs:
        drawn.add_column(Text(_cost_heading(cost, table.costs[cost])), justify="right")
    for metric in metrics:
        drawn.add_column(Text(_heading(metric, table.qualities[metric])), justify="right", overflow="fold")
    lost = any(record.outcome != "ok" for record in group)
    if lost:
        drawn.add_column("outcome")
    names = variants(table.records)
    for record in group:
        name = Text(record.method.replace("+", "+\n") if len(record.method) > 24 else record.method, "bold")
        for part in names[record.key].split()[1:]:
            name.append(f"\n{part}", "not bold dim")
        estimates, fastest = record.estimates if record.usable else {}, modes.fastest(modes.values(record))
        drawn.add_row(
            name,
            asked_and_reached(record.ratio, record.ratio_reached).replace(" (", "\n("),
            *(_cell(estimates.get(cost), "◆" * (cost == fastest)) for cost in costs),
            *(_cell(estimates.get(metric), marks.get((record.key, metric), "")) for metric in metrics),
            *([Text(record.outcome, "" if record.outcome == "ok" else "red")] if lost else []),
        )
    return drawn


def _cost_heading(cost: str, estimate: Estimate) -> str:
    """In lines as short as the figures below."""
    base, mode = modes.split(cost)
    unit = "/ dense" if base == modes.RATIO else estimate.unit
    name = title(base).removesuffix(" ratio").removesuffix("_s").replace(" ", "\n")
    name += f"\n[{mode}]" if base != cost else ""
    return name if unit in (name, "") else f"{name}\n{unit}"


def _heading(name: str, estimate: Estimate) -> str:
    unit = DIRECTIONS[estimate.better].replace(" is ", " is\n") if estimate.better else estimate.unit
    return "\n".join(part for part in (name.replace("[", "\n["), unit) if part)


def _cell(estimate: Estimate | None, mark: str = "") -> Text:
    if estimate is None:
        return Text("")
    text = Text(number(estimate.value))
    if mark:
        text.append(f" {mark}", "bold green")
    if bounds := interval(estimate.low, estimate.high):
        text.append(f"\n{bounds}", "dim")
    return text
