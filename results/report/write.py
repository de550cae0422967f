"""A report of one or several runs: a folder with `index.html`, which opens from disk without server or network."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path

from results.files import write_atomic
from results.record import furthest
from results.report.gather import groups
from results.report.opened import Opened, opened
from results.report.page import GENERATOR, page
from results.tables.paper import write_paper

INDEX = "index.html"
PLOTS = "plotly.min.js"
_OWN = ("images", "maps")


class ReportError(Exception):
    """A report cannot be written there. The message names the folder and the remedy."""


class NothingThere(ReportError):
    """The runs hold no record yet."""


def write_report(
    runs: Sequence[str | Path], out: str | Path | None = None, *, paper: bool = False, reload_s: int = 0
) -> Path:
    """Draw `out`/index.html and what it needs from records of the run folders `runs` alone; returns its path. out: by
    default the folder `report` of the first run; an earlier report there is replaced. paper: tables for papers, too.
    reload_s: seconds after which the page loads itself anew, for a run that goes on; 0: never.

    Images are linked where the file system can, so they take no room twice. Raises StoreError for a folder that is no
    run, is damaged or of a newer schema, ReportError where `out` holds something else, and OSError where it cannot be
    written.
    """
    paths = list(dict.fromkeys(Path(run) for run in runs))
    with ExitStack() as stack:
        found: list[Opened] = []
        for path, name in zip(paths, _names(paths), strict=True):
            run = opened(path, name)
            found.append(run)
            if run.folder is not None:
                stack.callback(run.folder.close)
        if not any(run.records for run in found):
            raise NothingThere(f"no records in {', '.join(map(str, paths))}: nothing to report")
        target = place(paths, out)
        _clear(target)
        drawn = groups(found, target)
    if paper:
        records = furthest(record for run in found for record in run.records)
        write_paper(list(records.values()), target, [one for run in found for one in run.matches])
    plots = (files("plotly") / "package_data" / PLOTS).read_bytes()
    write_atomic(target / PLOTS, plots)
    facts = {
        "title": ", ".join(run.name for run in found),
        "runs": [{"name": run.name, "points": len(run.records)} for run in found],
        "made": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "points": sum(len(group["points"]) for group in drawn),
        "missing": sum(group["missing"] for group in drawn), "size": "", "reload_s": reload_s,
    }  # fmt: skip
    beside = sum(path.stat().st_size for path in target.rglob("*") if path.is_file() and path.name != INDEX)
    facts["size"] = size(beside + len(page(facts, drawn).encode()))
    return write_atomic(target / INDEX, page(facts, drawn))


def place(runs: Sequence[Path], out: str | Path | None) -> Path:
    """The folder of a report."""
    return runs[0] / "report" if out is None else Path(out)


def size(count: int) -> str:
    """Bytes in words, such as "12.3 MB"."""
    amount, unit = float(count), "B"
    for larger in ("kB", "MB", "GB"):
        if amount >= 1000:
            amount, unit = amount / 1000, larger
    return f"{amount:.3g} {unit}" if amount < 1000 else f"{amount:,.0f} {unit}"


def _names(paths: Sequence[Path]) -> list[str]:
    """Names of the folders alone: a report says nothing of the machine that it was drawn on."""
    names = [path.resolve().name for path in paths]
    count = Counter(names)
    return [f"{path.resolve().parent.name}/{name}" if count[name] > 1 else name
            for path, name in zip(paths, names, strict=True)]  # fmt: skip


def _clear(folder: Path) -> None:
    """Make room for a report, in a folder that is empty or holds an earlier one."""
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / INDEX
    if any(folder.iterdir()):
        head = index.read_bytes()[:4096] if index.is_file() else b""
        if GENERATOR.encode() not in head:
            raise ReportError(f"{folder} holds something else than a report; give another --out")
        for name in _OWN:
            if (folder / name).is_dir():
                shutil.rmtree(folder / name)
    if not index.is_file():  # else a first drawing that is interrupted leaves what looks like somebody else's
        write_atomic(index, f'<!doctype html><meta name="generator" content="{GENERATOR}">unfinished; draw it again')
