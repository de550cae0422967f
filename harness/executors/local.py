"""Points one after another: each finished point is one row in the store before the next begins."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness import engine
from harness.errors import UserError
from harness.plan import Plan, Point
from results.record import Record
from results.store import Store, StoreError


def open_store(plan: Plan, folder: Path) -> Store:
    """The run folder's store. Raises UserError for a damaged one, or one of another configuration."""
    try:
        store = Store(folder / "store.sqlite")
        found, mine = store.get_meta("sweep"), plan.sweep.canonical()
        if found is None:
            store.set_meta("sweep", mine)
        elif found != mine:
            other = json.loads(found)
            changed = [k for k, v in json.loads(mine).items() if other.get(k) != v]
            store.close()
            raise UserError(
                f"output folder {folder} belongs to another configuration (differs in: {', '.join(changed)}); "
                "give another --out, or none"
            )
    except StoreError as error:
        raise UserError(str(error)) from error
    return store


def todo(plan: Plan, store: Store) -> list[Point]:
    """The points that have no complete record yet. Failed and incomplete ones are tried again."""
    done = store.keys("ok")
    return [point for point in plan.points if point.key not in done]


RunPoint = Callable[
    [Plan, Point, engine.Reference | None, Path, engine.Progress], tuple[Record, engine.Reference | None]
]


def run(
    plans: Sequence[Plan],
    store: Store,
    folder: Path,
    progress: engine.Progress,
    finished: Callable[[Record], None],
    run_point: RunPoint = engine.run,
) -> list[Record]:
    """Run what is missing and return the sweep's records in the plans' order."""
    return [record for plan in plans for record in _run(plan, store, folder, progress, finished, run_point)]


def _run(
    plan: Plan,
    store: Store,
    folder: Path,
    progress: engine.Progress,
    finished: Callable[[Record], None],
    run_point: RunPoint,
) -> list[Record]:
    dense = plan.points[0]
    known = store.get(dense.key)
    reference = engine.read_reference(known, plan.cases, folder) if known and known.usable else None
    missing = todo(plan, store)
    if missing and missing[0] is not dense and reference is None:
        missing.insert(0, dense)  # its images are gone, and the others are compared with them
    if missing:
        plan.task.prepare(plan.cases)
    for point in missing:
        if point is not dense and reference is None:
            break  # dense failed: nothing can be compared
        record, made = run_point(plan, point, None if point is dense else reference, folder, progress)
        reference = made if point is dense else reference
        try:
            store.put(record)
        except StoreError as error:
            raise UserError(str(error)) from error
        _log(folder, record)
        finished(record)
    return store.records([point.key for point in plan.points])


def _log(folder: Path, record: Record) -> None:
    line = record.model_dump(mode="json", include={"key", "method", "settings", "outcome", "reason", "seconds"})
    line["time"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with open(folder / "log.jsonl", "a", encoding="utf-8") as handle:
        handle.write(json.dumps(line) + "\n")
