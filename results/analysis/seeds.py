"""Points that differ in their training seed alone, taken together: intervals over cases and over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from results.analysis.point_names import SEED, variants
from results.analysis.statistics import percentile_interval
from results.record import Estimate, Record
from results.tables.formatting import compact_json, percent


def pooled(records: Sequence[Record]) -> pd.DataFrame:
    """One row per method, settings without the seed, and everything else that a comparison holds fixed.

    Columns: point (its short name), method, settings, ratio, seeds (how many), and for every estimate its mean over the
    seeds with a 95 % interval. A replicate of the interval draws the seeds with replacement and takes the mean of their
    own replicates, which resample the cases; an exact figure (FLOPs) varies with the seed alone. With one seed the
    interval is that of the cases.
    """
    names = variants(records, seeds=False)
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        if record.usable:
            settings = {name: value for name, value in record.settings.items() if name != SEED}
            task = (record.task, compact_json(record.task_settings))
            fixed = (record.method, compact_json(settings), record.ratio, record.model, task, record.device)
            groups.setdefault(fixed, []).append(record)
    rows = []
    for (method, settings, ratio, *_), members in groups.items():
        name = f"{names[members[0].key]} {percent(ratio)}".strip()
        row: dict[str, Any] = {"point": name, "method": method, "settings": settings, "ratio": ratio}
        row["seeds"] = len(members)
        shared = [name for name in members[0].estimates if all(name in other.estimates for other in members)]
        for name in shared:
            row |= _estimate(name, [member.estimates[name] for member in members])
        rows.append(row)
    return pd.DataFrame(rows)


def several(records: Sequence[Record]) -> bool:
    """Whether some method stands there with more than one training seed."""
    seeds: dict[str, set[object]] = {}
    for record in records:
        seeds.setdefault(record.method, set()).add(record.settings.get(SEED))
    return any(len(found) > 1 for found in seeds.values())


def _estimate(name: str, estimates: Sequence[Estimate]) -> dict[str, float | None]:
    values = np.array([e.value for e in estimates])
    counts = {len(e.replicates) for e in estimates}
    replicates = min(counts) or (200 if len(estimates) > 1 else 0)
    if not replicates or not np.isfinite(values).all():
        return {name: float(values.mean()), f"{name}_low": None, f"{name}_high": None}
    drawn = np.array([e.replicates[:replicates] or (e.value,) * replicates for e in estimates])  # (seeds, R)
    chosen = np.random.default_rng(0).integers(len(estimates), size=(replicates, len(estimates)))
    means = drawn[chosen, np.arange(replicates)[:, None]].mean(1)  # (R,)
    low, high = percentile_interval(means)
    return {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high}
