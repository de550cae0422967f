"""What a report shows, as plain data: runs, groups of comparable points, and what is to be said about them first.

Numbers are those of the store, every digit; what JSON has no word for (NaN, infinities) is None.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from results.analysis.paired import FEWEST
from results.analysis.pareto import comparable
from results.analysis.point_names import unique_names, variants
from results.analysis.points import DENSE, points_of
from results.analysis.sets import ranks
from results.analysis.verdict import judge
from results.analysis.verdict_types import Section
from results.recommend import apply_line
from results.record import SCHEMA_VERSION, CaseFacts, Record, furthest, newest
from results.report import commands, fronts, pictures, verdict
from results.report.opened import Opened, plain
from results.report.parts import parts
from results.tables.formatting import setup
from results.tables.published import published


def groups(runs: Sequence[Opened], out: Path) -> list[dict[str, Any]]:
    """One entry for each group of comparable records over all runs; pictures and token maps are put below `out`.
    Each holds `values`, the figures by image, apart from the rest, since they are large."""
    chosen = furthest(record for run in runs for record in run.records)
    homes = {id(record): run for run in runs for record in run.records}
    owner, records = {key: homes[id(record)] for key, record in chosen.items()}, list(chosen.values())
    found = comparable(records)
    sections = _sections(runs, found)
    return [
        _Group(place, members, owner, section, out).entry()
        for place, (members, section) in enumerate(zip(found, sections, strict=True))
    ]


def _sections(runs: Sequence[Opened], found: Sequence[Sequence[Record]]) -> list[Section]:
    if len(runs) == 1 and runs[0].verdict is not None and len(runs[0].verdict.sections) == len(found):
        return list(runs[0].verdict.sections)
    matches = [one for run in runs for one in run.matches]
    kept = [record for members in found for record in newest(members)]  # of several codes or machines, one stands there
    return list(judge(kept, matches).sections)


class _Group:
    def __init__(
        self, place: int, records: list[Record], owner: Mapping[str, Opened], section: Section, out: Path
    ) -> None:
        self.place, self.records, self.owner, self.section, self.out = place, records, owner, section, out
        self.cases = next((record.cases for record in records if record.cases), ())
        self.rows = max([len(self.cases), *(len(record.images) for record in records)])
        self.order = {_identity(case): row for row, case in enumerate(self.cases)}
        self.known = fronts.described(records)
        self.places: dict[str, dict[str, Any] | None] = {}

    def entry(self) -> dict[str, Any]:
        names, kinds, ties = unique_names(self.records), variants(self.records), self._ties()
        costs, metrics = fronts.axes(self.records)
        points = [self._point(i, record, names[record.key], kinds, ties) for i, record in enumerate(self.records)]
        by_image = [name for name in metrics if any(record.estimates.get(name) and record.estimates[name].values
                                                    for record in self.records if record.usable)]  # fmt: skip
        number = {record.key: i for i, record in enumerate(self.records)}
        return {
            "setup": self.section.setup or setup(self.records[0]),
            "runs": list(dict.fromkeys(self.owner[record.key].name for record in self.records)),
            "n": self.records[0].n_cases, "task": self.records[0].task, "model": self.records[0].model,
            "device": self.records[0].hardware, "dtype": self.records[0].dtype, "steps": self.records[0].steps,
            "verdict": verdict.shown(self.section), "warnings": self._warnings(points),
            "estimates": {
                name: {"unit": e.unit, "convention": e.convention, "role": e.role, "better": e.better, "n": e.n,
                       "title": fronts.title(name)}
                for name, e in self.known.items()
            },
            "published": published(self.records[0].task), "windows": plain(fronts.windows(self.records)),
            "costs": costs, "metrics": metrics, "headline": self.section.metric, "by_image": by_image,
            "fronts": {
                pair: {number[key]: plain(one) for key, one in members.items()}
                for pair, members in fronts.fronts(self.records).items()
            },
            "cases": [[case.prompt, case.seed, plain(case.facts)] for case in self.cases],
            "rows": self.rows, "shown": self._shown(), "points": points,
            "attribution": self._attribution(),
            "missing": sum(self._missing(point["pictures"]) for point in points if point["outcome"] != "failed"),
            "values": {name: [self._values(record, name) for record in self.records] for name in by_image},
        }  # fmt: skip

    def _point(
        self, index: int, record: Record, name: str, kinds: Mapping[str, str], ties: Mapping[str, str]
    ) -> dict[str, Any]:
        run = self.owner[record.key]
        images = self._pictures(record, self._in_order(record, record.images))
        return {
            "name": name, "variant": kinds[record.key], "method": record.method, "settings": plain(record.settings),
            "task_settings": plain(record.task_settings), "ratio": record.ratio, "reached": record.ratio_reached,
            "run": run.name, "key": record.key, "outcome": record.outcome, "reason": record.reason,
            "started": record.started, "seconds": record.seconds, "environment": record.environment,
            "estimates": {
                each: plain([e.value, e.low, e.high, e.sample_size])
                for each, e in (record.estimates if record.usable else {}).items()
            },
            "tie": ties.get(record.key, ""), "pictures": images, "maps": self._maps(index, record, run),
            "parts": parts(record), "command": commands.command(record, run.workload), "apply": apply_line(record),
            "dense": record.method == DENSE,
        }  # fmt: skip

    def _ties(self) -> dict[str, str]:
        """Whether a point shares the first place of its strength, by key: "first" or "behind"."""
        of = {point.name: point.records for point in points_of(newest(self.records))}
        return {
            record.key: "first" if rank.low == 1 else "behind"
            for block in self.section.blocks
            for rank in block.ranks
            for record in of.get(rank.point, ())
        }

    # -- images ------------------------------------------------------------------------------------------------

    def _in_order(self, record: Record, each: Sequence[Any]) -> list[Any]:
        """What a record has one of for each of its images, in the order of the group's cases; None for none."""
        found: list[Any] = [None] * self.rows
        if record.cases == self.cases and len(each) <= self.rows:
            found[: len(each)] = each  # nearly always, and quick
            return found
        for row, one in enumerate(each):
            case = record.cases[row] if row < len(record.cases) else None
            place = row if case is None else self.order.get(_identity(case), -1)
            if 0 <= place < self.rows:
                found[place] = one
        return found

    def _pictures(self, record: Record, names: Sequence[str | None]) -> dict[str, Any] | None:
        same = record.sample_key or record.key
        if same not in self.places:
            place = f"images/{self.place}-{len(self.places)}"
            self.places[same] = pictures.put(self.owner[record.key].path, names, self.out, place)
        return self.places[same]

    def _missing(self, found: Mapping[str, Any] | None) -> int:
        return self.rows if found is None else len(found["gone"])

    def _shown(self) -> list[dict[str, Any]]:
        """What the task shows beside the images: inputs, true images."""
        found: dict[str, dict[str, Any]] = {}
        for record in self.records:
            for label, names in record.shown.items():
                place = f"images/{self.place}-shown-{len(found)}"
                if label not in found:
                    put = pictures.put(self.owner[record.key].path, self._in_order(record, names), self.out, place)
                    if put is not None:
                        found[label] = {"label": label, "pictures": put}
        return list(found.values())

    def _maps(self, index: int, record: Record, run: Opened) -> dict[str, Any] | None:
        maps = None if run.folder is None else run.folder.token_maps(record)
        if maps is None:
            return None
        try:
            return pictures.put_maps(maps, self.out, f"maps/{self.place}-{index}")
        except (ValueError, TypeError, IndexError):
            return None  # arrays of other shapes than a run writes

    # -- figures -----------------------------------------------------------------------------------------------

    def _values(self, record: Record, name: str) -> list[float | None] | None:
        """By image, to six digits: they are for sorting and showing."""
        estimate = record.estimates.get(name)
        if estimate is None or not estimate.values or not record.usable:
            return None
        return [None if x is None else plain(float(f"{x:.6g}")) for x in self._in_order(record, estimate.values)]

    def _attribution(self) -> list[dict[str, Any]]:
        keys = {record.key for record in self.records}
        runs = {id(run): run for run in (self.owner[key] for key in keys)}
        return [
            {name: value for name, value in row.items() if name != "key_method"}
            for run in runs.values()
            for row in run.attribution
            if keys & set(str(row["key_method"]).split())
        ]

    # -- warnings ----------------------------------------------------------------------------------------------

    def _warnings(self, points: Sequence[Mapping[str, Any]]) -> list[str]:
        notes = [note[:1].upper() + note[1:] + "." for note in self.section.notes]
        lacking = "lack a metric or a mode of execution that failed"
        for outcome, words in (("failed", "failed"), ("incomplete", lacking)):
            bad = [f"{point['name']} ({point['reason']})" for point in points if point["outcome"] == outcome]
            if bad:
                notes.append(f"{len(bad)} of {len(points)} points {words}: {'; '.join(bad[:5])}{_more(bad[5:])}.")
        n = self.records[0].n_cases
        if sets := [name for name, e in self.known.items() if not ranks(name, e)]:
            notes.append(
                f"Small n: {', '.join(sets)} of {n} images do not rank points; they are distances between sets."
            )
        if n < FEWEST and not any("fewer than" in note for note in notes):
            notes.append(f"Small n: {n} images; fewer than {FEWEST} give no verdict.")
        notes += self._differing()
        if (missing := sum(self._missing(p["pictures"]) for p in points if p["outcome"] != "failed")) and self.rows:
            notes.append(f"{missing} of {len(points) * self.rows} pictures are not there; placeholders stand for them.")
        if any(record.schema_version != SCHEMA_VERSION for record in self.records):
            notes.append("Records of an older schema hold no prompts and no values by image.")
        if repeated := len(self.records) - len(newest(self.records)):
            notes.append(
                f"{repeated} points stand in several runs, made by different code; the verdict is on the newest."
            )
        return notes

    def _differing(self) -> list[str]:
        """Provenance that differs between the points, a line each; machines first, since latencies rest on them."""
        names = list(dict.fromkeys(name for record in self.records for name in record.environment))
        lines = []
        for name in sorted(names, key=lambda name: name not in ("device", "threads", "cpu")):
            seen = Counter(record.environment.get(name, "unknown") for record in self.records)
            if len(seen) > 1:
                kinds = ", ".join(f"{value[:40]} ({count} points)" for value, count in seen.most_common(4))
                lines.append(f"Versions differ in {name}: {kinds}{_more(list(seen)[4:])}.")
        return lines


def _more(left: Sequence[object]) -> str:
    return f", and {len(left)} more" if left else ""


def _identity(case: CaseFacts) -> tuple[str, int, str]:
    return case.prompt, case.seed, json.dumps(plain(case.facts), sort_keys=True)
