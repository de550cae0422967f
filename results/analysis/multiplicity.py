"""Several tests at once: p-values adjusted so that one false call in the whole family is rarer than the level."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjusted p-values (Holm, 1979), in the order given.

    The k-th smallest of m is multiplied by m - k + 1, at most 1, and is never below the one before it. None (no test
    was made) stays None and does not count towards m. Raises ValueError for a value outside [0, 1] or NaN.
    """
    tested = sorted((value, index) for index, value in enumerate(p) if value is not None)
    if bad := [value for value, _ in tested if not 0 <= value <= 1]:
        raise ValueError(f"a p-value lies between 0 and 1, not {bad[0]}")
    adjusted: list[float | None] = [None] * len(p)
    before = 0.0
    for rank, (value, index) in enumerate(tested):
        before = max(before, min(1.0, (len(tested) - rank) * value))
        adjusted[index] = before
    return adjusted
