"""Tables for papers: LaTeX with booktabs, Markdown and CSV, one for each group of comparable points.

The best figure at a strength is marked only where its 95 % interval lies apart from all others there; else it and those
whose intervals overlap it are marked as tied. Distances between sets (FID, KID) of fewer than 1,000 images are not
marked. The intervals are of each point by itself, so this claims less than the
paired differences of the verdict do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from results.analysis.pareto import comparable
from results.analysis.points import DENSE, OTHERS, Block, Point, blocks_of, points_of
from results.analysis.seeds import TIMES, level
from results.analysis.sets import ranks
from results.files import write_atomic
from results.record import Estimate, Record, newest
from results.tables.formatting import DIRECTIONS, csv, interval, number, plain, rows, setup
from results.tables.table import Table

Mark = Literal["best", "tied", ""]
_COSTS = {
    "gmacs": "GMACs",
    "latency_ratio": "latency / dense",
    "peak_memory_mb": "memory, MiB",
    "energy_j": "energy per image and step, J",
}
_PAGE = 3
"""Figures with their intervals that a page is wide enough for, in LaTeX."""
_BREAK = " \\\\"
_TITLE = re.compile(r"(.+?)(\[[^\[\]]+\])?(?: (\(\w+\)))?")
_NOTE = (
    "Best at its strength: its 95 % interval lies apart from all others there. Tied: it overlaps the best one's. "
    "Distances between sets, such as FID, are marked from 1,000 images on. Several training seeds are one point, its "
    "intervals over seeds and images; those of one training cover images only."
)
_SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",  # other signs in LaTeX's default encoding
    "[": "{[}", "*": "{*}",  # at the start of a row, options of the line break before it
} | {sign: f"\\{sign}" for sign in "&%$#_{}"}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A figure of one point. column: the name of its estimate."""

    point: str
    strength: str
    column: str
    estimate: Estimate
    mark: Mark


def write_paper(records: Sequence[Record], folder: str | Path, matches: Sequence[Mapping[str, Any]] = ()) -> list[Path]:
    """tables.tex, tables.md and tables.csv in `folder`; returns their paths. matches: what searches for budgets found.
    Raises OSError."""
    table, place = Table([one for group in comparable(records) for one in newest(group)]), Path(folder)
    groups = [(setup(group[0]), list(cells(group, matches))) for group in table.groups]
    groups = [(about, found) for about, found in groups if found]
    return [
        write_atomic(place / "tables.tex", "\n".join(latex(about, found) for about, found in groups)),
        write_atomic(place / "tables.md", "\n\n".join(markdown(about, found) for about, found in groups) + "\n"),
        write_atomic(place / "tables.csv", csv(pd.concat([frame(about, found) for about, found in groups]))
                     if groups else ""),
    ]  # fmt: skip


def cells(group: Sequence[Record], matches: Sequence[Mapping[str, Any]] = ()) -> Iterator[Cell]:
    """The figures of a group, point by point, training seeds together: costs, then every metric that has a direction.
    Dense comes first and is in no contest."""
    table, points = Table(group), points_of(group)
    dense = [point for point in points if point.first.method == DENSE]
    blocks = [Block("", tuple(dense)), *blocks_of([point for point in points if point not in dense], matches)]
    for block in blocks:
        for point in block.points:
            for name in point.first.estimates:
                if (estimate := _level(point, name)) is None:
                    continue
                if name in _COSTS:
                    yield Cell(_named(point), block.title, name, estimate, "")
                elif name in table.qualities:
                    rivals = [one for each in block.points if (one := _level(each, name)) is not None]
                    contest = block.title not in ("", OTHERS) and all(ranks(name, one) for one in rivals)
                    yield Cell(_named(point), block.title, name, estimate, _mark(estimate, rivals) if contest else "")


def _level(point: Point, name: str) -> Estimate | None:
    """Over the training seeds; None where one of them has no such figure, and for times of several machines."""
    if name.startswith(TIMES) and len({record.hardware for record in point.records}) > 1:
        return None
    found = [record.estimates[name] for record in point.records if name in record.estimates]
    return level(found) if len(found) == len(point.records) else None


def _named(point: Point) -> str:
    return f"{point.name}, {len(point.records)} seeds" if len(point.records) > 1 else point.name


def _mark(own: Estimate, rivals: Sequence[Estimate]) -> Mark:
    """rivals: all figures of the block, `own` among them."""
    if len(rivals) < 2 or any(one.low is None or one.high is None for one in rivals):
        return ""
    best = min(rivals, key=lambda one: one.value if own.better == "lower" else -one.value)
    overlaps = [one for one in rivals if one is not best and _overlap(one, best)]
    if own == best:
        return "tied" if overlaps else "best"
    return "tied" if own in overlaps else ""


def _overlap(one: Estimate, other: Estimate) -> bool:
    assert one.low is not None and one.high is not None and other.low is not None and other.high is not None
    return one.low <= other.high and other.low <= one.high


def frame(about: str, found: Sequence[Cell]) -> pd.DataFrame:
    """One row per figure, every digit: columns setup, strength, point, figure, value, low, high, n, unit, mark."""
    columns = ["setup", "strength", "point", "figure", "value", "low", "high", "n", "unit", "mark"]
    lines = [
        (about, c.strength, c.point, c.column, e.value, e.low, e.high, e.sample_size, e.unit, c.mark)
        for c in found
        for e in (c.estimate,)
    ]
    return pd.DataFrame(lines, columns=columns).astype({"low": float, "high": float})


def markdown(about: str, found: Sequence[Cell]) -> str:
    """A table; best in bold, tied with a dagger."""
    columns = _columns(found)
    body = []
    for _, name, line in _lines(found):
        body.append([plain(name), *(_markdown(line.get(column)) for column in columns)])
    head = ["point", *(plain(_title(column, found)) for column in columns)]
    return f"## {plain(about)}\n\n{rows(head, body)}\n\n**Bold**: best. †: tied. {_NOTE}"


def _markdown(cell: Cell | None) -> str:
    if cell is None:
        return ""
    value, bounds = number(cell.estimate.value), interval(cell.estimate.low, cell.estimate.high)
    marked = {"best": f"**{value}**", "tied": f"{value}†", "": value}[cell.mark]
    return f"{marked} {bounds}".strip()


def latex(about: str, found: Sequence[Cell]) -> str:
    """Table environments of at most `_PAGE` figures each, for which the document loads booktabs; a rule stands between
    strengths."""
    columns = _columns(found)
    parts = [columns[i : i + _PAGE] for i in range(0, len(columns), _PAGE)]
    caption = f"{_tex(about)}. Bold: best, $\\dagger$: tied. {_tex(_NOTE)}"
    return "\n".join(
        _environment(f"{caption}{f' Part {i} of {len(parts)}.' if len(parts) > 1 else ''}", part, found)
        for i, part in enumerate(parts, 1)
    )


def _environment(caption: str, columns: Sequence[str], found: Sequence[Cell]) -> str:
    lines = ["% \\usepackage{booktabs}", "\\begin{table}", "\\centering", "\\footnotesize",
             f"\\caption{{{caption}}}", f"\\begin{{tabular}}{{l{'r' * len(columns)}}}", "\\toprule",
             " & ".join(["", *(_stacked(_title(column, found)) for column in columns)]) + " \\\\"]  # fmt: skip
    last = None
    for strength, name, line in _lines(found):
        if strength != last:
            lines.append("\\midrule")
            last = strength
        lines.append(" & ".join([_tex(name), *(_latex(line.get(column)) for column in columns)]) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}", ""])


def _stacked(title: str) -> str:
    """A column's title with its extractor and its direction below it."""
    parts = _TITLE.fullmatch(" ".join(title.split()))
    shown = [_tex(part) for part in (parts.groups() if parts else (title,)) if part]
    return shown[0] if len(shown) == 1 else f"\\shortstack[r]{{{_BREAK.join(shown)}}}"


def _latex(cell: Cell | None) -> str:
    if cell is None:
        return ""
    value = number(cell.estimate.value).replace("-", "$-$")
    shown = {"best": f"\\textbf{{{value}}}", "tied": f"{value}$^\\dagger$", "": value}[cell.mark]
    bounds = interval(cell.estimate.low, cell.estimate.high).replace("-", "$-$")
    return f"{shown} {{\\scriptsize {bounds}}}" if bounds else shown


def _tex(text: str) -> str:
    """Text that somebody else has named, on one line (an empty line would end a caption)."""
    return "".join(_SPECIAL.get(sign, sign) for sign in " ".join(text.split()))


def _columns(found: Sequence[Cell]) -> list[str]:
    known = dict.fromkeys(cell.column for cell in found)
    return [*(name for name in _COSTS if name in known), *(name for name in known if name not in _COSTS)]


def _title(column: str, found: Sequence[Cell]) -> str:
    if column in _COSTS:
        return _COSTS[column]
    better = next(cell.estimate.better for cell in found if cell.column == column)
    return f"{column} ({DIRECTIONS[better or 'lower'].removesuffix(' is better')})"


def _lines(found: Sequence[Cell]) -> Iterator[tuple[str, str, dict[str, Cell]]]:
    """Strength, point and figures by column; a point that meets two budgets has a line in each."""
    by_point: dict[tuple[str, str], dict[str, Cell]] = {}
    for cell in found:
        by_point.setdefault((cell.strength, cell.point), {})[cell.column] = cell
    for (strength, point), line in by_point.items():
        yield strength, point, line
