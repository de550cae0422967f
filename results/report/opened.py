"""A run folder, read for a report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from results import outputs
from results.analysis.verdict_types import Verdict
from results.record import Record
from results.run_folder import RunError, RunFolder


@dataclass
class Opened:
    """A run folder, read. matches: what its search for budgets found. verdict: the one that the run drew from these
    very records; None where there is none."""

    path: Path
    name: str
    records: list[Record]
    workload: dict[str, Any]
    matches: list[Mapping[str, Any]]
    verdict: Verdict | None
    attribution: list[dict[str, Any]] = field(default_factory=list)
    folder: RunFolder | None = None


def opened(path: Path, name: str) -> Opened:
    """Read a run folder, which stays open for its token maps. Raises StoreError."""
    folder = RunFolder.open(path)
    try:
        text = folder.store.get_meta("workload")
        try:
            workload = json.loads(text or "{}")
        except (ValueError, RecursionError):
            workload = {}
        return Opened(
            path, name, folder.records(), workload if isinstance(workload, dict) else {},
            list(folder.read_json(outputs.MATCHES) or ()), _drawn(folder), _attribution(path), folder,
        )  # fmt: skip
    except BaseException:
        folder.close()
        raise


def _drawn(folder: RunFolder) -> Verdict | None:
    """The verdict beside the records, where it is of these records: it takes long to make for many points."""
    try:
        if outputs.drawn(folder):
            text = (folder.path / "tables" / "verdict.json").read_text(encoding="utf-8")
            return Verdict.model_validate_json(text)
    except (OSError, ValueError, RunError):
        pass
    return None


def _attribution(path: Path) -> list[dict[str, Any]]:
    file = path / "tables" / "attribution.csv"
    try:
        table = pd.read_csv(file, dtype={"seed": str, "key_method": str}) if file.is_file() else pd.DataFrame()
        columns = ["method", "ratio", "seed", "axis", "control", "form", "metric", "difference", "low", "high", "p",
                   "n", "better", "unit", "key_method"]  # fmt: skip
        return plain(table.reindex(columns=columns).to_dict("records"))
    except (OSError, ValueError):
        return []


def plain(value: Any) -> Any:
    """The value with None for NaN and infinities, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)
