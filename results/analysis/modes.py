"""Figures of a mode of execution other than eager, whose names carry it: `latency_ratio[compile]`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from results.record import Record

EAGER = "eager"
RATIO, SECONDS = "latency_ratio", "latency_s"
BUSY = "device_busy"
LEAST_BUSY = 0.75
"""Below it, a latency on a GPU is the host's, which launches kernels, and says nothing of a method."""
_FIGURES = (RATIO, SECONDS, "latency_limit_ratio", "latency_overhead", BUSY)


def named(name: str, mode: str) -> str:
    """A figure's name in a mode."""
    return name if mode == EAGER else f"{name}[{mode}]"


def split(name: str) -> tuple[str, str]:
    """A figure's name without its mode, and the mode; for any other name, itself and eager."""
    base, _, mode = name.partition("[")
    return (base, mode[:-1]) if base in _FIGURES and mode.endswith("]") else (name, EAGER)


def base(name: str) -> str:
    """A figure's name without its mode."""
    return split(name)[0]


def variants(bases: Iterable[str], known: Iterable[str]) -> list[str]:
    """Those of the known figures that are one of `bases` in some mode, in the order of the bases."""
    known = list(known)
    return [name for one in bases for name in known if base(name) == one]


def of(figures: Iterable[str]) -> list[str]:
    """The modes that there is a latency of, in the order of the figures."""
    return [split(name)[1] for name in figures if base(name) == RATIO]


def launch_bound(records: Sequence[Record], mode: str) -> bool:
    """Whether a GPU idled through more than a quarter of the time in one of the records."""
    name = named(BUSY, mode)
    return any(record.estimates[name].value < LEAST_BUSY for record in records if name in record.estimates)


def fastest(values: Mapping[Any, Any]) -> str:
    """The figure that stands for the mode of the least seconds, of those that are not launch-bound; "" where there is
    one mode alone, or none such. values: of figures by name, NaN for none."""
    seconds = {mode: values.get(named(SECONDS, mode), math.nan) for mode in of(values)}
    known = {mode: value for mode, value in seconds.items() if math.isfinite(value)}
    told = [mode for mode in known if not values.get(named(BUSY, mode), 1.0) < LEAST_BUSY]
    return named(RATIO, min(told, key=known.__getitem__)) if len(known) > 1 and told else ""


def values(record: Record) -> dict[str, float]:
    """The values of a record's figures, none of a failed one."""
    return {name: estimate.value for name, estimate in record.estimates.items()} if record.usable else {}
