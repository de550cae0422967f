"""A recommendation for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from results.recommend import Recommendation, apply_line, closest
from results.tables.formatting import percent


def show(found: Sequence[Recommendation], console: Console | None = None) -> None:
    """A table of what meets the budget, ties, and the line that puts the first to use."""
    console = console or Console()
    for one in found:
        if not one.meeting:
            console.print(Text(f"{one.setup}: nothing meets the budget; closest: {closest(one)}"))
            continue
        console.print(_table(one))
        if one.tied:
            console.print(Text(f"not distinguishable from the first in {one.metric}: {', '.join(one.tied)}"))
        if one.better:
            console.print(Text(f"better than the first in {one.metric}: {', '.join(one.better)}"))
        for line in one.notes:
            console.print(Text(line))
        console.print(Text(f"to use it: {apply_line(one.meeting[0].record)}", "bold"), soft_wrap=True)


def _table(one: Recommendation) -> RichTable:
    drawn = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1), title=Text(one.setup), title_justify="left")
    drawn.add_column("settings")
    for check in one.meeting[0].checks:
        drawn.add_column(f"{check.figure}\nlimit {check.shown(check.limit)}", justify="right", overflow="fold")
    drawn.add_column("probability that\nall limits are met", justify="right")
    for candidate in one.meeting:
        values = (check.shown(check.value) for check in candidate.checks)
        drawn.add_row(candidate.name, *values, percent(round(candidate.probability, 3)))
    return drawn
