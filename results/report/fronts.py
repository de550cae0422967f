"""Fronts of a group of comparable points, for every cost and metric that a page may ask for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from results.analysis.modes import base, split
from results.analysis.pareto import front
from results.analysis.sets import ranks
from results.plots.window import window
from results.record import Estimate, Record
from results.tables.table import COST_AXES, Table

NAMES = {
    "gmacs": "GMACs",
    "gmacs_paper": "GMACs, as papers count",
    "latency_ratio": "latency / dense",
    "latency_s": "latency",
    "peak_memory_mb": "peak memory",
    "energy_j": "energy",
    "throughput_images_s": "throughput",
}


def title(name: str) -> str:
    """A figure's name for people."""
    known, mode = split(name)
    return NAMES.get(name) or (f"{NAMES[known]} ({mode})" if known in NAMES else name)


def described(records: Iterable[Record]) -> dict[str, Estimate]:
    """Every estimate's name with its first appearance in a usable record."""
    found: dict[str, Estimate] = {}
    for record in records:
        for name, estimate in record.estimates.items() if record.usable else ():
            found.setdefault(name, estimate)
    return found


def axes(records: list[Record]) -> tuple[list[str], list[str]]:
    """Cost axes and metrics with a direction. Latencies of several machines, and those that no interleaving has made
    comparable, are no axis, as in `Table`; energy is one."""
    known, table = described(records), Table(records)
    further = [name for name, e in known.items() if e.role == "cost" and base(name) not in COST_AXES and _wanted(name)]
    return [*table.costs, *further], list(table.qualities)


def windows(records: list[Record]) -> dict[str, tuple[float, float]]:
    """Where the intervals of an axis are cut off, for estimates where one is many times as long as the rest."""
    costs, metrics = axes(records)
    found = {}
    for name in (*costs, *metrics):
        own = [r.estimates[name] for r in records if r.usable and _finite(r, name)]
        limits = window([e.value for e in own], [e.low for e in own], [e.high for e in own]) if own else None
        if limits is not None:
            found[name] = limits
    return found


def _wanted(name: str) -> bool:
    return name.startswith("energy") or name == "gmacs_paper"


def fronts(records: list[Record]) -> dict[str, dict[str, list[Any]]]:
    """By "cost|metric": for each point that has both, by key, whether it is on the front and the share of resamples in
    which it is (None where nothing was resampled, or the axis has no replicates). No point is on the front of a
    distance between sets of fewer than 1,000 images."""
    table = Table(records)
    costs, metrics = axes(records)
    found: dict[str, dict[str, list[Any]]] = {}
    for cost in costs:
        for metric in metrics:
            if base(cost) in COST_AXES:
                rows = table.pareto(cost, metric).to_dict("records")
                found[f"{cost}|{metric}"] = {
                    row["key"]: [bool(row["on_front"]), None if math.isnan(row["front_share"]) else row["front_share"]]
                    for row in rows
                }
            else:
                found[f"{cost}|{metric}"] = _plain(records, cost, metric, table.qualities[metric])
    return {pair: points for pair, points in found.items() if points}


def _plain(records: list[Record], cost: str, metric: str, estimate: Estimate) -> dict[str, list[Any]]:
    own = [r for r in records if r.usable and all(_finite(r, name) for name in (cost, metric))]
    assert estimate.better is not None  # `qualities` holds no other
    if not all(ranks(metric, r.estimates[metric]) for r in own):
        return {r.key: [False, None] for r in own}
    costs, values = ([r.estimates[name].value for r in own] for name in (cost, metric))
    return {r.key: [bool(on), None] for r, on in zip(own, front(costs, values, estimate.better), strict=True)}


def _finite(record: Record, name: str) -> bool:
    return name in record.estimates and math.isfinite(record.estimates[name].value)
