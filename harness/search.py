"""The strength at which a method meets a budget: bisection over a ladder of values, guided by the costs it has met."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from harness.errors import UserError
from harness.matches import TOLERANCE

GUIDED = 6
"""Tries that costs guide; later ones halve, since costs that go in leaps lead a line astray."""


def bisect(
    ladder: Sequence[float | int],
    costs: dict[float, float],
    budget: float,
    measure: Callable[[float | int], float],
    *,
    tries: int | None = None,
    refused: dict[float, UserError] | None = None,
) -> None:
    """Measure rungs until one meets the budget, or none is left between the two nearest. ladder: rising; what is higher
    costs less. costs: by value, what is known already and what is measured, each value once. A value that `measure`
    refuses with a UserError counts as too high; with no other measured, that error is raised. tries: how many at most.
    refused: what was refused, by value, which is not tried again.
    """
    refused = {} if refused is None else refused
    low, high = -1, len(ladder)  # dearer and cheaper than the budget, as far as known
    for rung, value in enumerate(ladder):
        if value in refused:
            high = rung
            break
        if value in costs and costs[value] > budget:
            low = rung
        elif value in costs:
            high = rung
            break  # costs that are noisy, or go in leaps, may rise again behind it
    for attempt in itertools.count() if tries is None else range(tries):
        if high - low <= 1 or _met(costs, budget):
            break
        rung = _between(ladder, low, high, costs, budget, halving=attempt >= GUIDED)
        value = ladder[rung]
        try:
            if value not in costs:
                costs[value] = measure(value)
        except UserError as error:  # more than these layers and steps can spare
            refused[value], high = error, rung
        else:
            low, high = (rung, high) if costs[value] > budget else (low, rung)
    if refused and not costs:
        raise next(reversed(refused.values()))


def _met(costs: dict[float, float], budget: float) -> bool:
    return any(abs(cost - budget) <= TOLERANCE * budget for cost in costs.values())


def _between(
    ladder: Sequence[float | int], low: int, high: int, costs: dict[float, float], budget: float, *, halving: bool
) -> int:
    """The next rung to try, strictly between two: where a straight line through their costs meets the budget, kept away
    from the ends; the middle where one of them has not been measured, or when `halving`."""
    if halving or low < 0 or high >= len(ladder) or ladder[high] not in costs:
        middle = (max(low, 0) + min(high, len(ladder))) // 2
    else:
        above, below = costs[ladder[low]], costs[ladder[high]]
        share = (above - budget) / (above - below) if above > below else 0.5
        middle = low + round((high - low) * min(0.9, max(0.1, share)))
    return min(max(middle, low + 1), high - 1)
