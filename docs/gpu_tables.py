"""Tables of docs/gpu.md, from what a GPU showed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import experiments
import pandas as pd

from results.tables.formatting import interval, number, percent, rows

GPU = experiments.REFERENCE / "gpu"
_KINDS = {
    "attention": r"sdpa|flash",
    "router, choice of tokens": r"order_kernel|nvjet_sm90_tst_256x8",
    "matrix products": r"nvjet|cutlass|gemm",
    "norms, modulation, activation, sums, compiled": r"triton_",
    "other kernels": r"",
}
"""Kernels by their names, the first that fits."""


def before() -> str:
    """The profiles that were made before execution modes."""
    lines = []
    for path in sorted(GPU.glob("*_before.csv"), reverse=True):
        for row in pd.read_csv(path).to_dict("records"):
            lines.append([*_point(row), _ratio(row, "latency_ratio"), number(row["energy_j"], 3)])
    return rows(["model", "batch", "method", "ratio", "latency / dense", "energy per image and step, J"], lines)


def graphs() -> str:
    """PixArt-Sigma 512, compiled and captured."""
    lines = [
        [
            row["mode"], *_point(row)[1:], number(1000 * row["latency_s"], 3), _ratio(row, "latency_ratio"),
            _ratio(row, "latency_limit_ratio"), _ratio(row, "latency_overhead"), number(row["energy_j"], 3),
        ]
        for row in pd.read_csv(GPU / "pixart_sigma_512_h200.csv").to_dict("records")
    ]  # fmt: skip
    head = [
        "mode",
        "batch",
        "method",
        "ratio",
        "latency, ms",
        "/ dense",
        "limit / dense",
        "overhead",
        "energy per image and step, J",
    ]
    return rows(head, lines)


def kernels() -> str:
    """Where the device's time goes, by method and kind of kernel."""
    lines: list[list[str]] = []
    dense = 0.0
    for method in ("dense", "uniform", "random-keep", "at-edm", "tome"):
        path = GPU / f"kernels_pixart_sigma_512_h200_{method}.csv"
        frame = pd.read_csv(path, names=["us", "launches", "kernel"])
        frame = frame[frame["us"] > 0]  # the others are calls of the host
        kind = frame["kernel"].map(lambda name: next(one for one, known in _KINDS.items() if re.search(known, name)))
        by_kind = frame.groupby(kind)["us"].sum() / 1000
        total = by_kind.sum()
        dense = dense or total
        each = [number(by_kind.get(one, 0.0), 3) for one in _KINDS]
        lines.append([method, *each, number(total, 3), f"{total / dense:.3f}", str(frame["launches"].sum())])
    return rows(["method", *(f"{one}, ms" for one in _KINDS), "all, ms", "/ dense", "launches"], lines)


def _point(row: Mapping[Any, Any]) -> list[str]:
    ratio = None if pd.isna(row["ratio"]) else row["ratio"]
    return [row["model"].removeprefix("random:"), str(row["batch"]), row["method"], percent(ratio)]


def _ratio(row: Mapping[Any, Any], name: str) -> str:
    if pd.isna(row[name]):
        return ""
    return f"{number(row[name], 3)} {interval(row[f'{name}_low'], row[f'{name}_high'])}"


BLOCKS: dict[str, Callable[[], str]] = {"gpu-before": before, "gpu-graphs": graphs, "gpu-kernels": kernels}
