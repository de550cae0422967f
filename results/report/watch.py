"""A report that follows runs: drawn again whenever a record or a picture has changed, until the runs end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from results.at_work import workers
from results.report.write import NothingThere, write_report
from results.run_folder import STORE, RunFolder

RELOAD_S = 15
"""Seconds after which the page loads itself anew while somebody watches."""


class Watch:
    """A report in the making. runs, out: as of `results.report.write.write_report`. say: called with each line."""

    def __init__(self, runs: Sequence[Path], out: Path | None, say: Callable[[str], None]) -> None:
        self._runs, self._out, self._say = list(runs), out, say
        self._files: Any = None
        self._drawn: Any = None
        self._page: Path | None = None

    def follow(self, every_s: float) -> Path | None:
        """Draw until no process adds points any more; returns the page, None where no record came. Raises as
        `write_report`."""
        while any(workers(run)[0] for run in self._runs):
            self.draw(RELOAD_S)
            time.sleep(every_s)
        return self.close()

    def close(self) -> Path | None:
        """Draw what came last; the page loads itself no more."""
        self._files = self._drawn = None
        return self.draw(0)

    def draw(self, reload_s: int) -> Path | None:
        """Draw the page where something has changed since the last time."""
        files = [_files(run) for run in self._runs]
        if files == self._files:
            return self._page
        self._files = files
        state = [_state(run) for run in self._runs]
        if state == self._drawn:
            return self._page
        try:
            self._page = write_report(self._runs, self._out, reload_s=reload_s)
        except NothingThere:
            self._say("waiting for the first record")
        else:
            count = sum(len(records) for records, _ in state)
            self._say(f"{time.strftime('%H:%M:%S')} {count} record{'s' * (count != 1)}: {self._page}")
        self._drawn = state
        return self._page


def _files(run: Path) -> list[tuple[int, int]]:
    """Of the store and the folders of pictures: cheap to ask, and what changes them may have changed no record."""
    paths = [run / STORE, run / f"{STORE}-wal", run / "matched.json", *(run / "images").glob("*")]
    found = []
    for path in paths:
        try:
            facts = path.stat()
            found.append((facts.st_mtime_ns, facts.st_size))
        except OSError:
            found.append((0, 0))
    return found


def _state(run: Path) -> tuple[list[tuple[str, str, str]], list[tuple[str, int]]]:
    """The records, and when the folders of their pictures changed last; those of a point that is being made do not
    count."""
    with RunFolder.open(run) as folder:
        stamps = folder.store.stamps()
    changed = {}
    for sample in sorted({sample for _, sample, _ in stamps if sample}):
        try:
            changed[sample] = (run / "images" / sample).stat().st_mtime_ns
        except OSError:
            changed[sample] = 0
    return stamps, list(changed.items())
