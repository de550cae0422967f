"""Run folders of one workload, put together into one: what machines made apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from results import outputs
from results.analysis.points import led_to
from results.record import OUTCOMES, SCHEMA_VERSION, Record, newest
from results.run import Run, open_run
from results.run_folder import ASKED, RunError, RunFolder
from results.tables.formatting import compact_json
from results.taken_over import take

_QUESTION = ("method", "settings", "axis", "budget", "task_settings")


def merged(folders: Sequence[str | Path], out: str | Path) -> Run:
    """Put the records of finished runs, with their images, into the folder `out`, which may hold some already, and draw
    it. Every record keeps what it says of its machine; one that failed gives way to one that did not.

    Raises RunError for folders of several workloads, with what differs, for damaged ones and those of another schema.
    """
    if not folders:
        raise RunError("name the run folders to merge")
    places = [Path(folder) for folder in folders]
    found: dict[str, tuple[Path, Record]] = {}
    workload = None
    for place in places:
        with RunFolder.open(place) as run:
            if run.store.schema != SCHEMA_VERSION:
                raise RunError(
                    f"{place} is of schema {run.store.schema}, this is {SCHEMA_VERSION}: it cannot be merged"
                )
            own = json.loads(run.store.get_meta("workload") or "null")
            if not isinstance(own, dict):
                raise RunError(f"{place} does not say what its workload is, so it cannot be merged")
            workload = workload or own
            if own != workload:
                names = sorted(name for name in {*own, *workload} if own.get(name) != workload.get(name))
                lines = [f"{name}: {json.dumps(workload.get(name))} and {json.dumps(own.get(name))}" for name in names]
                raise RunError(f"{places[0]} and {place} hold different workloads: {'; '.join(lines)}")
            for record in newest(run.store.records()):
                known = found.get(record.key)
                if record.outcome == "ok" and not run.complete(record):
                    raise RunError(
                        f"{place} lacks images of {record.method} {record.settings}: run it again there first"
                    )
                if known is None or OUTCOMES.index(record.outcome) > OUTCOMES.index(known[1].outcome):
                    found[record.key] = (place, record)
    assert workload is not None
    with RunFolder.grow(out, workload) as folder:
        done = folder.store.keys("ok")
        take(folder, {key: place for key, (place, _) in _in_order(found).items() if key not in done})
        folder.store.set_meta(ASKED, "[]")  # the newest of each point is shown
        _match(folder, places)
        outputs.write(folder)
    return open_run(out)


def _match(folder: RunFolder, places: Sequence[Path]) -> None:
    """Keep what searches for budgets found in these folders, one answer to each question: shards that tuned apart may
    have found several, and one that led to a point of its own folder is kept before others."""
    found: dict[str, tuple[tuple[bool, bool], dict[str, Any]]] = {}
    with ExitStack() as stack:
        for run in (folder, *(stack.enter_context(RunFolder.open(place)) for place in places)):
            records = run.records()
            for match in run.read_json(outputs.MATCHES) or ():
                asked = compact_json({name: match.get(name) for name in _QUESTION})
                led = match["strength"] is not None and any(led_to(match, record) for record in records)
                rank = led, not match.get("reason")  # a search that failed is no answer
                if asked not in found or rank > found[asked][0]:
                    found[asked] = rank, match
    if found:
        folder.write_json(outputs.MATCHES, [match for _, match in found.values()])


def _in_order(found: dict[str, tuple[Path, Record]]) -> dict[str, tuple[Path, Record]]:
    """Dense first, then method by method as they came, each by rising ratio."""
    methods = list(dict.fromkeys(record.method for _, record in found.values()))
    methods.sort(key=lambda name: name != "dense")

    def place(item: tuple[str, tuple[Path, Record]]) -> tuple[int, float]:
        record = item[1][1]
        return methods.index(record.method), record.ratio or 0.0

    return dict(sorted(found.items(), key=place))
