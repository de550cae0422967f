"""How rarely random signs take a sum as far as it went, where drawing signs would take too long to tell.

The sum S of s_i d_i with fair signs s_i has the cumulant generating function K(t), the sum of log cosh(t d_i).
Lugannani and Rice (1980) give P(S >= x) from the saddlepoint t, where K'(t) = x:

    1 - Phi(w) + phi(w) (1 / u - 1 / w),    w = sqrt(2 (t x - K(t))),    u = t sqrt(K''(t))

Robinson (1982) has it for permutation tests. Sums of equal differences lie on a lattice twice as wide as the smallest
of them; x is taken half a step in, which is the correction for continuity there and next to nothing elsewhere.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

LEAST = 1e-6
"""No p below this is told: nobody knows the tail of real differences that well."""
_HALVINGS = 60


def sign_flip_tail(differences: NDArray[np.float64]) -> float:
    """Two-sided p of the sum of the differences (C,) under random signs, to some 2 % down to `LEAST`. Zeros, whose sign
    changes nothing, may be among them. Raises ValueError where all are zero."""
    sizes = np.abs(differences[differences != 0])
    if not len(sizes):
        raise ValueError("all differences are zero: any signs give their sum")
    observed, total, step = abs(float(differences.sum())), float(sizes.sum()), float(sizes.min())
    surest = 2.0 ** (1 - len(sizes))  # all signs as they are, or all turned
    if observed >= total - step:
        return max(surest, LEAST)
    return min(1.0, max(2 * _beyond(sizes / total, (observed - step) / total), surest, LEAST))


def _beyond(sizes: NDArray[np.float64], x: float) -> float:
    """P(S >= x) for sizes (C,) that sum to 1."""
    if x <= 1e-9:
        return 0.5
    low, high = 0.0, 1.0
    while float((sizes * np.tanh(high * sizes)).sum()) < x:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if float((sizes * np.tanh(middle * sizes)).sum()) < x:
            low = middle
        else:
            high = middle
    t = (low + high) / 2
    scaled = t * sizes
    k = float((np.logaddexp(scaled, -scaled) - math.log(2)).sum())
    spread = float((sizes**2 / np.cosh(np.minimum(scaled, 350)) ** 2).sum())
    w, u = math.sqrt(max(2 * (t * x - k), 0.0)), t * math.sqrt(spread)
    if w < 1e-4:
        return 0.5
    density = math.exp(-w * w / 2) / math.sqrt(2 * math.pi)
    return math.erfc(w / math.sqrt(2)) / 2 + density * (1 / u - 1 / w)
