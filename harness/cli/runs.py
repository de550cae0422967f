"""`python -m harness runs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.endings import ended

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, help="List and show finished runs."
)
_RUNS = Path("results") / "runs"


@app.command("list")
@ended
def list_(
    folder: Annotated[Path, typer.Option(help="Folder of run folders.")] = _RUNS,
) -> None:
    """List the runs of a folder, the newest first: name, model, task, points, date."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from results.summaries import summaries

    found, unreadable = summaries(folder)
    if found:
        table = Table("run", "what", "model", "task", "points", "date", box=box.SIMPLE)
        for one in found:
            table.add_row(one.name, one.kind, one.model, one.task, one.points, one.date)
        Console().print(table)
    else:
        print(f"no runs in {folder}; python -m harness run makes one")
    for reason in unreadable:
        print(f"not readable: {reason}")


@app.command("show")
@ended
def show(
    run: Annotated[str, typer.Argument(help="Name of a run below results/runs, or a run folder.")],
) -> None:
    """Show one run: what it is, its table, and where its files lie."""
    from harness.cli import terminal
    from harness.errors import unknown
    from results.run import open_run
    from results.summaries import names, summary

    path = Path(run)
    if not path.is_dir() and (_RUNS / run).is_dir():
        path = _RUNS / run
    if not path.exists() and path.parent == Path("."):
        raise unknown("run", run, names(_RUNS), "; or give a run folder")
    one = summary(path)
    facts = {
        "folder": str(path), "what": one.kind, "model": one.model, "task": one.task, "methods": ", ".join(one.methods),
        "points": one.points, "date": one.date, "device": one.device,
    }  # fmt: skip
    print("\n".join(f"{name}: {value}" for name, value in facts.items() if value))
    open_run(path).print(terminal.tables())
