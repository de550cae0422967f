"""Where a point's time and products go, by part."""

from __future__ import annotations

import math
import re

from results.record import Record

_PATTERNS = {"seconds": re.compile(r"latency_(\w+)_s"), "GMACs": re.compile(r"gmacs_(\w+)")}
_TOTALS = ("dense", "method", "paper")


def parts(record: Record) -> dict[str, dict[str, float]]:
    """By unit ("seconds", "GMACs"), the figure of each part that the record has one of; those of whole images and of
    other ways to count are no parts."""
    found: dict[str, dict[str, float]] = {}
    for name, estimate in record.estimates.items() if record.usable else ():
        for unit, pattern in _PATTERNS.items():
            match = pattern.fullmatch(name)
            if match and match[1] not in _TOTALS and math.isfinite(estimate.value):
                found.setdefault(unit, {})[match[1].replace("_", " ")] = estimate.value
    return found
