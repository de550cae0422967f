"""How a run goes, on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from harness.executors.execute import Listener

console = Console(stderr=True)


class Bar(Listener):
    """A progress bar and a line per finished point. unit: what the work is counted in. debug: tracebacks are shown."""

    def __init__(self, unit: str = "images", debug: bool = False) -> None:
        self._debug = debug
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn(f"{{task.completed:.0f}}/{{task.total:.0f}} {unit}"),
        )
        self._bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
        self._task: Any = None

    def begin(self, work: int) -> None:
        if work:
            self._task = self._bar.add_task("starting", total=work)
            self._bar.start()

    def progress(self, what: str, work: int) -> None:
        if self._task is not None:
            self._bar.update(self._task, description=what, advance=work)

    def finished(self, record: Any) -> None:
        ratio = "" if record.ratio is None else f" {100 * record.ratio:g} %"
        batch = f", batch {record.task_settings['batch']}" if "batch" in record.task_settings else ""
        note = record.outcome if record.outcome == "ok" else f"{record.outcome}: {record.reason}"
        self.say(f"{record.method}{ratio}{batch}: {note} ({record.seconds:.0f} s)")
        if self._debug and record.traceback:
            self.say(record.traceback.rstrip())

    def say(self, line: str) -> None:
        self._bar.console.print(line, highlight=False, markup=False)

    def end(self) -> None:
        self._bar.stop()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
