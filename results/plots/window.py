"""What an axis has to show: all values, and the intervals that are not many times as long as the rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MANY = 2.0
"""Beyond the typical range, so many times its length, an interval is cut off."""
_PADDING = 0.04  # of the range, by which a cut interval goes on beyond what is shown


def window(
    values: Sequence[float], lows: Sequence[float | None], highs: Sequence[float | None]
) -> tuple[float, float] | None:
    """Where intervals are cut off, low and high, so that the axis shows values; None where none has to be. One sequence
    entry per point; None for a point without a bound.

    The typical range holds every value with the median length of the intervals on either side (0 of an exact figure),
    so that intervals which are all long stay whole: then it is the values' differences that say little.
    """
    x = np.array(values, dtype=float)
    low, high = (np.array([np.nan if b is None else b for b in some], dtype=float) for some in (lows, highs))
    low, high = np.where(np.isfinite(low), low, x), np.where(np.isfinite(high), high, x)
    if not len(x) or not np.isfinite(x).all():
        return None
    typical = np.quantile(np.concatenate([x - low, high - x]), 0.5, method="lower")
    least, most = x.min() - typical, x.max() + typical
    least, most = least - MANY * (most - least), most + MANY * (most - least)
    if least == most or (low.min() >= least and high.max() <= most):
        return None
    ends = np.concatenate([x, low[low >= least], high[high <= most]])
    padding = _PADDING * (ends.max() - ends.min())
    return float(ends.min() - padding), float(ends.max() + padding)
