"""Everything that people look at, drawn from a run folder alone: tables, plots, token maps and image grids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from results.analysis import seeds
from results.analysis.point_names import point_names, variants
from results.analysis.verdict import judge
from results.analysis.verdict_types import Verdict
from results.files import slug, write_atomic
from results.record import Record
from results.run_folder import RunError, RunFolder
from results.tables import markdown, step_costs
from results.tables.budgets import write_matched
from results.tables.formatting import csv
from results.tables.table import PARETO, Table
from results.tables.verdict import write_verdict

MATCHES = "matched.json"
_MARK = "tables/drawn.json"
_VERSION = 4  # of what is drawn: a new one draws old folders again


def write(folder: RunFolder, *, all_plots: bool = False) -> None:
    """Draw the folder's outputs and then mark them as drawn, so that a process that dies before leaves no mark. What an
    earlier drawing left and this one does not make is removed. all_plots: see `results.plots.pareto_plot`."""
    records, before = folder.records(), _drawn_files(folder)
    table, matches = Table(records), folder.read_json(MATCHES)
    if any(record.task == step_costs.TASK for record in records):
        written = [step_costs.to_csv(table, folder.path / "tables" / "profile.csv")]
    else:
        written = write_tables(table, folder.path)
        if matches and any(r.method == "dense" and r.usable for r in records):
            written += write_matched(records, matches, folder.path)
        verdict = judge(records, matches or ())
        written += write_verdict(verdict, folder.path)
        written += _plots(table, folder, all_plots) + _forests(verdict, folder.path / "plots")
    files = sorted({path.relative_to(folder.path).as_posix() for path in written})
    for name in set(before) - set(files):
        if name.startswith(("tables/", "plots/")) and ".." not in name:
            (folder.path / name).unlink(missing_ok=True)
    folder.write_json(_MARK, {**_state(records, matches), "files": files, "all_plots": all_plots})


def drawn(folder: RunFolder, *, all_plots: bool = False) -> bool:
    """Whether the outputs of the folder's present records are there, every file of them."""
    try:
        mark = folder.read_json(_MARK) or {}
        files, more = mark.pop("files"), mark.pop("all_plots")
        there = all((folder.path / name).is_file() for name in files) and (more or not all_plots)
    except (RunError, AttributeError, KeyError, TypeError):
        return False  # a damaged mark: draw again
    return there and mark == _state(folder.records(), folder.read_json(MATCHES))


def _drawn_files(folder: RunFolder) -> list[str]:
    try:
        return [str(name) for name in (folder.read_json(_MARK) or {}).get("files", [])]
    except (RunError, AttributeError, TypeError):
        return []


def _state(records: Sequence[Record], matches: object) -> dict[str, object]:
    rests_on = [matches, *([record.key, record.started, record.outcome] for record in records)]
    return {"version": _VERSION, "records": hashlib.sha256(json.dumps(rests_on).encode()).hexdigest()}


def write_tables(table: Table, folder: str | Path) -> list[Path]:
    """Write tables/results.csv, summary.md, pareto.csv and pareto.md below `folder`, and tables/seeds.csv where a
    method stands there with several training seeds; returns their paths."""
    tables = Path(folder) / "tables"
    parts = [points.assign(cost_axis=cost, metric=quality) for cost, quality, points in table.fronts()]
    columns = ["cost_axis", "metric", *PARETO]
    fronts = pd.concat(parts)[columns] if parts else pd.DataFrame(columns=columns)
    written = [
        table.to_csv(tables / "results.csv"),
        write_atomic(tables / "summary.md", markdown.summary(table)),
        write_atomic(tables / "pareto.csv", csv(fronts)),
        write_atomic(tables / "pareto.md", markdown.render(table)),
    ]
    if seeds.several(table.records):
        written.append(write_atomic(tables / "seeds.csv", csv(seeds.pooled(table.records))))
    return written


def _plots(table: Table, folder: RunFolder, everything: bool) -> list[Path]:
    from results.plots.cost_plot import cost_by, swept  # matplotlib is slow to import, and tables do without
    from results.plots.pareto_plot import write_plots
    from results.plots.token_maps import draw

    plots, names = folder.path / "plots", point_names(table.records)
    written = write_plots(table, plots, everything=everything)
    for setting in swept(table.records):
        written.append(cost_by(table.records, setting, plots / f"cost_by_{slug(setting)}.png"))
    for record in _strongest(table.records):
        if (maps := folder.token_maps(record)) is not None:
            written += draw(maps, names[record.key], plots / "maps")
    alike: dict[str, list[Record]] = {}  # records whose cases are the same share a grid
    for record in table.records:
        if record.images:
            alike.setdefault(record.fingerprint.get("cases", ""), []).append(record)
    for place, members in enumerate(alike.values()):
        name = "images.png" if place == 0 else f"images-{place + 1}.png"
        written.append(_grid(members, names, folder, plots / name))
    return written


def _forests(verdict: Verdict, plots: Path) -> list[Path]:
    from results.plots.forest import forest

    compared = [one for one in verdict.sections if any(block.to_dense or block.to_rival for block in one.blocks)]
    names = ["verdict.png", *(f"verdict-{place + 1}.png" for place in range(1, len(compared)))]
    return [forest(section, plots / name) for section, name in zip(compared, names, strict=False)]


def _strongest(records: Sequence[Record]) -> list[Record]:
    """The record of the highest ratio of each variant and setting of the task."""
    kinds = variants(records)
    highest: dict[str, Record] = {}
    for record in sorted(records, key=lambda r: r.ratio or 0):
        if record.usable and record.ratio:
            highest[kinds[record.key]] = record
    return list(highest.values())


def _grid(members: Sequence[Record], names: dict[str, str], folder: RunFolder, path: Path) -> Path:
    from results.plots.image_grid import image_grid

    beside = {label: paths for record in members for label, paths in record.shown.items()}
    rows = [(label, [folder.path / name for name in paths]) for label, paths in beside.items()]
    rows += [(names[record.key], [folder.path / name for name in record.images]) for record in members]
    prompts = [case.prompt for case in members[0].cases] or [""] * len(members[0].images)
    return image_grid(rows, prompts, path)
