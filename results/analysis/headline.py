"""The metric that a verdict is about."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from results.record import Estimate, Record

TRUTH = "truth["
FIDELITY = "psnr_to_dense"


class Headline(NamedTuple):
    """fidelity: it measures how near a method stays to dense, which is no quality: dense has no figure of it, and no
    loss of it can be called harmless."""

    name: str
    estimate: Estimate
    fidelity: bool


def headline(records: Iterable[Record]) -> Headline | None:
    """The distance to the true picture where records have one, else PSNR to dense; None where none has values per
    image of either."""
    found: dict[str, Estimate] = {}
    for record in records:
        for name, estimate in record.estimates.items():
            if record.usable and estimate.values and estimate.better:
                found.setdefault(name, estimate)
    for name, estimate in found.items():
        if name.startswith(TRUTH):
            return Headline(name, estimate, False)
    return Headline(FIDELITY, found[FIDELITY], True) if FIDELITY in found else None
