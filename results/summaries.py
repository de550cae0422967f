"""Run folders at a glance: what each holds, read off its records."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from results.run_folder import STORE, RunFolder
from results.store import StoreError


@dataclass(frozen=True)
class Summary:
    """kind: images, or step for a profile. points: how many, and how many of them failed. date: of the newest point,
    in UTC to the minute."""

    name: str
    kind: str
    model: str
    task: str
    methods: tuple[str, ...]
    points: str
    date: str
    device: str


def names(folder: Path) -> list[str]:
    """Run folders in a folder; none where it is not there."""
    return sorted(path.parent.name for path in folder.glob(f"*/{STORE}"))


def summary(path: Path) -> Summary:
    """Raises RunError and StoreError for a folder that is no run, or a damaged one."""
    with RunFolder.open(path) as run:
        records = run.records()
        shared = run.store.get_meta("workload")
    kind = str(json.loads(shared).get("kind", "images")) if shared else ""
    failed = sum(record.outcome == "failed" for record in records)
    return Summary(
        name=path.resolve().name,
        kind=kind,
        model=_all(record.model for record in records),
        task=_all(record.task for record in records),
        methods=tuple(dict.fromkeys(record.method for record in records)),
        points=f"{len(records)}" + (f" ({failed} failed)" if failed else ""),
        date=max((record.started for record in records), default="")[:16].replace("T", " "),
        device=_all(f"{record.device} {record.dtype}" for record in records),
    )


def summaries(folder: Path) -> tuple[list[Summary], list[str]]:
    """The runs of a folder, the newest first, and what is said of those that cannot be read."""
    found, unreadable = [], []
    for name in names(folder):
        try:
            found.append(summary(folder / name))
        except (StoreError, ValueError, AttributeError) as error:
            unreadable.append(f"{folder / name}: {error}")
    return sorted(found, key=lambda one: one.date, reverse=True), unreadable


def _all(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))
