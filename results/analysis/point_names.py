"""What tells the points of one method apart besides the ratio: its name, and those settings that differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from results.tables.formatting import percent

RATIO = "ratio"
SEED = "seed"


class Named(Protocol):
    """A record, or anything else that stands for an operating point."""

    @property
    def key(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...
    @property
    def ratio(self) -> float | None: ...
    @property
    def strength(self) -> str: ...
    @property
    def task_settings(self) -> Mapping[str, Any]: ...


def variants(records: Iterable[Named], *, seeds: bool = True, strengths: bool = True) -> dict[str, str]:
    """The name of each record by its key: "diffcr", or "diffcr axes=layer" where the sweep holds other axes, too; the
    values of those settings of the task that differ between records follow.

    A switch is named where it stands otherwise than with most points of the method. The ratio is never part of it; the
    training seed and a strength that is no ratio are where they vary, unless `seeds`
    or `strengths` is off.
    """
    everyone = list(records)
    of_task = _differing([record.task_settings for record in everyone])
    by_method: dict[str, list[Named]] = {}
    for record in everyone:
        by_method.setdefault(record.method, []).append(record)
    names = {}
    for method, members in by_method.items():
        left_out = {RATIO, *(() if seeds else (SEED,)), *(() if strengths else (one.strength for one in members))}
        differing = [name for name in _differing([record.settings for record in members]) if name not in left_out]
        usual = {name: _usual([record.settings.get(name) for record in members]) for name in differing}
        for record in members:
            parts = [
                f"{name}={_short(value)}" for name in differing
                if (value := record.settings.get(name)) != "" and (value is None or value is not usual[name])
            ]  # fmt: skip
            parts += [_short(record.task_settings.get(name)) for name in of_task]
            names[record.key] = " ".join([method, *parts])
    return names


def point_names(records: Iterable[Named]) -> dict[str, str]:
    """The same with the ratio: "diffcr axes=layer 20 %"."""
    members = list(records)
    names = variants(members)
    return {record.key: f"{names[record.key]} {percent(record.ratio)}".strip() for record in members}


def unique_names(records: Iterable[Named]) -> dict[str, str]:
    """The same, with the beginning of the key behind a name that several have: made by other code, or elsewhere."""
    names = point_names(records)
    count = Counter(names.values())
    return {key: name if count[name] == 1 else f"{name} ({key[:6]})" for key, name in names.items()}


def strength(record: Named) -> str:
    """How strongly a point compresses, in short: "20 %", or "threshold 0.06" where the strength is no ratio."""
    value = record.settings.get(record.strength)
    if record.ratio is not None or value is None:
        return percent(record.ratio)
    return f"{record.strength.rpartition('.')[2]} {value:.3g}"


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names whose values are not all the same."""
    known = dict.fromkeys(name for one in settings for name in one)
    return [name for name in known if len({repr(one.get(name)) for one in settings}) > 1]


def _usual(values: Sequence[object]) -> bool | None:
    """Of a switch, where most of the points have it, which goes without saying; None where there is no such place."""
    return next((place for place in (True, False) if 2 * sum(one is place for one in values) > len(values)), None)


def _short(value: object) -> str:
    return "-".join(str(value).split())
