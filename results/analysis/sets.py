"""Distances between sets of images: FID, KID, CMMD, and FID and KID of squares.

Of few images they mostly measure their number, and rank noise: perfect renders of 64 captions score worse than dense.
They are shown, with their intervals, and rank points from 1,000 images on.
"""

from __future__ import annotations

import re

from results.record import Estimate

RANKING_NEEDS = 1000
"""Images below which a distance between sets ranks nothing."""
_NAMES = re.compile(r"(fid|kid|cmmd)(_\w+)?\[")  # records of older versions do not say what they hold


def is_set_distance(name: str, estimate: Estimate | None = None) -> bool:
    return bool(estimate and estimate.set_distance) or _NAMES.match(name) is not None


def ranks(name: str, estimate: Estimate) -> bool:
    """Whether points may be ranked by this figure."""
    return estimate.n >= RANKING_NEEDS or not is_set_distance(name, estimate)
