"""The settings that meet a budget, across runs of one workload: what `python -m harness recommend` prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from results.analysis.bounds import Bound, bound
from results.analysis.compare import differing
from results.analysis.differences import NotComparable
from results.analysis.headline import headline
from results.analysis.paired import FEWEST
from results.analysis.pareto import comparable
from results.analysis.point_names import SEED, unique_names
from results.analysis.points import DENSE
from results.analysis.recommend import MEETS, Candidate, beside, candidates, ranked
from results.record import Record, newest
from results.run import open_run
from results.tables.formatting import compact_json, setup


@dataclass(frozen=True)
class Recommendation:
    """For one group of comparable points. meeting: the most probable first; nearest: where none meets the budget, the
    one that comes closest. tied, better: names of those that cannot be told apart from the first in `metric`, and of
    those that are better."""

    setup: str
    metric: str
    meeting: tuple[Candidate, ...]
    nearest: Candidate | None
    tied: tuple[str, ...]
    better: tuple[str, ...]
    notes: tuple[str, ...]


class NothingMeets(NotComparable):
    """No point meets the budget. The message says how close the nearest comes."""


def recommended(folders: Sequence[str | Path], most: Sequence[str], least: Sequence[str]) -> list[Recommendation]:
    """most: limits on costs, such as "latency=0.8". least: limits on metrics, such as "truth=-1%". One recommendation
    for each mask area or whatever else tells the cases of a run apart.

    Raises NotComparable for runs of several workloads and runs without dense; NothingMeets; BadBound; and StoreError
    for a folder that is no run.
    """
    if not most and not least:
        raise NotComparable("no budget: give --max latency=0.8, --min truth=-1%, or both")
    upper = [bound(text, "=", "latency=0.8") for text in most]
    lower = [bound(text, "=", "truth=-1%") for text in least]
    runs = [open_run(folder).records for folder in folders]
    _one_workload(folders, runs)
    usable = newest(record for records in runs for record in records if record.usable)
    everyone = {record.key: record for record in usable}
    names = unique_names(usable)
    found = []
    for group in comparable(everyone.values()):
        by_task: dict[str, list[Record]] = {}
        for record in group:
            by_task.setdefault(compact_json(record.task_settings), []).append(record)
        for members in by_task.values():
            dense = next((record for record in members if record.method == DENSE), None)
            points = {names[record.key]: record for record in members if record.method != DENSE}
            if dense is None or not points:
                continue
            judged, notes = candidates(points, dense, upper, lower)
            if lower and dense.n_cases < FEWEST:
                notes.append(f"n = {dense.n_cases} is fewer than {FEWEST} images: the probabilities say little")
            metric = _metric(members, judged, lower)
            meeting = ranked((one for one in judged if one.probability >= MEETS), metric)
            ties, better = beside(meeting[0], meeting[1:], metric) if meeting and metric else ([], [])
            notes += _notes(meeting, len(judged))
            nearest = None if meeting else min(ranked(judged, metric), key=lambda one: one.missed, default=None)
            about = setup(members[0]) + "".join(f" · {k} {v}" for k, v in members[0].task_settings.items())
            found.append(
                Recommendation(about, metric, tuple(meeting), nearest, tuple(ties), tuple(better), tuple(notes))
            )
    if not found:
        raise NotComparable("the runs hold no method beside dense with a usable record")
    if not any(one.meeting for one in found):
        raise NothingMeets(f"nothing meets {' and '.join((*most, *least))}; closest: {'; '.join(map(closest, found))}")
    return found


def _notes(meeting: Sequence[Candidate], of: int) -> list[str]:
    """What the probabilities leave out."""
    notes = []
    if of > 1 and meeting:
        notes.append(
            f"the first of {of} points, chosen on the images that its probability is of, which flatters it: choose on "
            "`run --split calibration`, or run it once more with another --seed"
        )
    if any(SEED in one.record.settings for one in meeting):
        notes.append("a training seed is a point of its own: the probability covers images and timings, not training")
    return notes


def _metric(records: Sequence[Record], judged: Sequence[Candidate], least: Sequence[Bound]) -> str:
    """In which ties are looked for: the first metric that has a limit, else the headline metric; "" for none."""
    if judged and least:
        return next(check.figure for check in judged[0].checks if check.kind != "cost")
    on = headline(records)
    return on.name if on is not None else ""


def apply_line(record: Record) -> str:
    """How the settings are put to use."""
    names = {name: json.loads(json.dumps(value)) for name, value in record.settings.items()}
    words = [f"{name}={value!r}" for name, value in names.items() if name.isidentifier()]
    further = {name: value for name, value in names.items() if not name.isidentifier()}
    words += [f"**{further!r}"] if further else []
    return f"harness.apply({', '.join(['pipeline', repr(record.method), *words])})"


def _one_workload(folders: Sequence[str | Path], runs: Sequence[Sequence[Record]]) -> None:
    """Raises NotComparable where two runs share no group of comparable points."""
    for folder, records in zip(folders[1:], runs[1:], strict=True):
        first, own = ([one[0] for one in comparable(r for r in some if r.usable)] for some in (runs[0], records))
        if first and own and not any(not differing(a, b) for a in first for b in own):
            lines = "; ".join(differing(own[0], first[0]))
            raise NotComparable(f"{folder} (A) and {folders[0]} (B) are runs of different workloads: {lines}")


def closest(one: Recommendation) -> str:
    """How close the nearest point comes, in words."""
    if one.nearest is None:
        return "; ".join(one.notes)
    checks = ", ".join(map(str, one.nearest.checks))
    return f"{one.nearest.name}: {checks}; it meets all with probability {one.nearest.probability:.2g}"
