"""Tables as markdown: the Pareto fronts, and one row per operating point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from results.analysis import modes, seeds
from results.analysis.point_names import point_names
from results.record import Estimate, Record
from results.tables.formatting import (
    DIRECTIONS,
    code,
    compact_json,
    interval,
    number,
    parts,
    percent,
    plain,
    point,
    rows,
    setup,
    title,
)  # fmt: skip

if TYPE_CHECKING:
    from results.tables.table import Table

_HOW_TO_READ = """\
- **front** ●: no other point is at least as good on both axes and better on one. A lower cost is always better.
- **front share**: the share of bootstrap resamples of the cases in which the point is on the front.
- Distances between sets (FID, KID, CMMD) of fewer than 1,000 images rank nothing, and have no front.
- **[low, high]**: 95 % bootstrap interval of the quality metric.
- **point**: the method, those of its settings in which its points here differ, and the ratio asked for or another
  strength; `results.csv` has every setting. A cell without a number is empty.
- Only points of one group share a front: same task, model, device, dtype, steps, cases and fingerprint."""

_EVERY_SEED = (
    "**Every training seed is a point of its own here**, and a lucky fit may lie on a front that its method's mean "
    "does not reach. summary.md and the verdict take the seeds together."
)

_COSTS = (
    "gmacs", "gmacs_paper", "gmacs_encoder", "latency_s", "latency_ratio", "latency_limit_ratio", "latency_overhead",
    "peak_memory_mb", "tokens",
)  # fmt: skip
_HEADINGS = ("front", "point", "cost", "quality", "[low, high]", "front share")


def render(table: Table) -> str:
    """The document: how to read it, the groups, one section per cost axis and metric, the points without a number."""
    groups = [f"- **Group {index}**: {plain(setup(group[0]))}" for index, group in enumerate(table.groups, start=1)]
    sections = [_section(table, cost, quality, points) for cost, quality, points in table.fronts()]
    failed = [_failed(table.failed())] if table.failed() else []
    own = [_EVERY_SEED] if seeds.several(table.records) else []
    empty = [] if sections else ["No point has both a cost and a quality metric."]
    return "\n\n".join(["# Pareto fronts", _HOW_TO_READ, *own, "\n".join(groups), *empty, *sections, *failed]) + "\n"


def summary(table: Table) -> str:
    """One row per operating point, training seeds taken together, and what each column means."""
    pooled = seeds.pooled(table.records)
    columns = [*modes.variants(_COSTS, map(str, pooled.columns)), *(name for name in table.qualities if name in pooled)]
    known = {name: estimate for record in table.records for name, estimate in record.estimates.items()}
    many, apart = seeds.several(table.records), len(table.groups) > 1
    beside = [name for name, shown in (("group", apart), ("seeds", many)) if shown]
    head = ["point", *beside, *columns]
    cells = (
        [plain(row["point"]), *(str(row[name]) for name in beside), *(_bounded(row, name, fastest) for name in columns)]
        for row in pooled.to_dict("records")
        for fastest in (modes.fastest(row),)
    )
    numbered = (f"**Group {number}**: " if apart else "" for number in range(1, len(table.groups) + 1))
    groups = "\n".join(
        f"- {number}{plain(setup(group[0]))}" for number, group in zip(numbered, table.groups, strict=True)
    )
    legend = [f"- {code(name)}: {_axis(known[name])}; {DIRECTIONS[known[name].better or 'lower']}" for name in columns]
    note = "[low, high]: 95 % interval: bootstrap over cases for quality; for latency, over blocks of interleaved pairs"
    note += "; where there are several training seeds, the t-interval over their values instead." if many else "."
    if len(modes.of(columns)) > 1:
        note += " ◆: the mode of execution in which the point takes the least seconds, launch-bound ones apart."
    failed = [_failed(table.failed())] if table.failed() else []
    return (
        "\n\n".join(["# Summary", groups, rows([*map(plain, head)], cells), note + "\n\n" + "\n".join(legend), *failed])
        + "\n"
    )


def _bounded(row: dict[Any, Any], name: str, fastest: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    bounds = "" if low == high else interval(low, high)  # seeds that cost the same
    return f"{number(row[name], 3)} {bounds}{' ◆' * (name == fastest)}".strip()


def _section(table: Table, cost: str, quality: str, points: pd.DataFrame) -> str:
    metric = table.qualities[quality]
    lines = [
        f"## {title(cost)} and {plain(quality)}",
        f"- Cost: `{cost}` in {_axis(table.costs[cost])}, lower is better\n"
        f"- Quality: {code(quality)} in {_axis(metric)}, {DIRECTIONS[metric.better or 'lower']}",
    ]
    called = point_names(table.records)
    for group, members in parts(points, "group"):
        sample = f"n = {table.sample_size(quality, group)} for the metric"
        if not table.exact(cost, group):
            sample += f", n = {table.sample_size(cost, group)} for the cost"
        lines += [
            f"### Group {group} ({sample})",
            rows(_HEADINGS, (_cells(row, called[row["key"]]) for row in members.to_dict("records"))),
        ]
    shown = set(points["key"])
    absent = [r for r in table.records if r.usable and r.key not in shown]
    if absent:
        names = ", ".join(plain(point(record.method, record.ratio)) for record in absent)
        lines.append(f"Not drawn, for want of one of the two numbers: {names}.")
    return "\n\n".join(lines)


def _axis(estimate: Estimate) -> str:
    return plain(f"{estimate.unit}, {estimate.convention}")


def _cells(row: dict[Any, Any], name: str) -> tuple[str, ...]:
    return (
        "●" if row["on_front"] else "",
        plain(name),
        number(row["cost"]),
        number(row["quality"]),
        interval(row["low"], row["high"]),
        percent(row["front_share"]),
    )


def _failed(records: Sequence[Record]) -> str:
    cells = (
        (plain(r.method), code(compact_json(r.settings)), percent(r.ratio), r.outcome, plain(r.reason)) for r in records
    )
    return "## Failed and incomplete points\n\n" + rows(("method", "settings", "ratio", "outcome", "reason"), cells)
