"""How near to dense's a figure has to be to count as the same quality in MLPerf's sense.

MLPerf Inference takes a text-to-image model as valid within 2 % of the reference's FID and 0.2 % of its CLIP score
(Stable Diffusion XL, 5,000 captions). Here in the direction that loses quality alone: a better figure passes. FID of
fewer than 1,000 images mostly measures their number, and passes nothing.
"""

from __future__ import annotations

from results.analysis.sets import RANKING_NEEDS

_FID, _CLIP = 0.02, 0.002


def clear_of(low: float, high: float, dense: float) -> bool | None:
    """Whether the interval of a paired difference of CLIP scores lies within the tolerance (True) or beyond (False);
    None where it does neither, so that these images do not tell."""
    edge = -_CLIP * dense
    return True if low >= edge else False if high < edge else None


def within(metric: str, value: float, dense: float, n: int | None = None) -> bool | None:
    """Whether a figure of n images (None: not known) passes; None where there is no tolerance, or too few images."""
    kind = metric.partition("[")[0]
    if kind == "fid" and (n is None or n >= RANKING_NEEDS):
        return value <= (1 + _FID) * dense
    if kind == "clip_score":
        return value >= (1 - _CLIP) * dense
    return None
