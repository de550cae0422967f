"""A budget of latency, whose readings are noisy: what is found is not the luckiest of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import budgets, config, plan
from harness.matches import Match
from harness.method import Method


def found(
    monkeypatch: pytest.MonkeyPatch, small: dict[str, Any], cost: Callable[[float, int], float], budget: float = 0.8
) -> tuple[Match, list[tuple[float, int]]]:
    """ToMe's match where a cost is a function of the ratio and the number of rounds, and what was measured."""
    measured: list[tuple[float, int]] = []

    def relative(_on: object, method: Method, _dense: Method, _gmacs: None, _mode: str, rounds: int) -> float:
        measured.append((method.ratio or 0.0, rounds))
        return cost(method.ratio or 0.0, rounds)

    monkeypatch.setattr(budgets, "relative_cost", relative)
    sweep = config.build({**small, "methods": "tome", "match": "latency", "budgets": [budget]})
    (one,) = budgets._search(sweep, plan.load_model(sweep), [], lambda _found: None, lambda _line: None)
    return one, measured


def test_a_lucky_reading_is_measured_anew_and_the_search_goes_on(
    monkeypatch: pytest.MonkeyPatch, small: dict[str, Any]
) -> None:
    lucky: list[float] = []

    def cost(ratio: float, rounds: int) -> float:
        true = 1 - ratio
        if not lucky:  # the first reading says that the budget is met
            lucky.append(ratio)
            return 0.8
        return true

    one, measured = found(monkeypatch, small, cost)
    assert measured[1] == (lucky[0], budgets._FRESH_ROUNDS)
    assert one.met and 1 - one.strength == pytest.approx(0.8, rel=0.01) and one.strength != lucky[0]
    assert one.cost == 1 - one.strength


def test_a_setting_that_is_found_has_a_reading_of_its_own(
    monkeypatch: pytest.MonkeyPatch, small: dict[str, Any]
) -> None:
    one, measured = found(monkeypatch, small, lambda ratio, rounds: 1 - ratio + 0.001 * (rounds == 12))
    assert measured[-1] == (one.strength, 12) and one.cost == 1 - one.strength + 0.001
    assert one.tried == len({ratio for ratio, _ in measured})


def test_a_budget_that_is_added_leaves_the_others_as_they_are(
    monkeypatch: pytest.MonkeyPatch, small: dict[str, Any], tmp_path: Path
) -> None:
    noise = np.random.default_rng(1)
    monkeypatch.setattr(
        budgets, "relative_cost", lambda _on, method, *_: 1 - (method.ratio or 0.0) + noise.normal() * 0.01
    )

    def resolved(*wanted: float) -> dict[float, Match]:
        sweep = config.build({**small, "methods": "tome", "match": "latency", "budgets": list(wanted)})
        return {one.budget: one for one in budgets.resolved(sweep, tmp_path, plan.load_model(sweep))[1]}

    first = resolved(0.8)
    both = resolved(0.8, 0.7)
    assert both[0.8] == first[0.8] and both[0.7].strength != first[0.8].strength
    assert resolved(0.7, 0.8) == both


def test_costs_that_stay_off_the_budget_are_said_to(monkeypatch: pytest.MonkeyPatch, small: dict[str, Any]) -> None:
    """A cache on a plateau: every value costs the same, and some reading always comes near."""
    noise = np.random.default_rng(0)
    met = []
    for _ in range(40):
        one, measured = found(monkeypatch, small, lambda *_: 0.84 + noise.normal() * 0.02)
        assert sum(rounds == budgets._FRESH_ROUNDS for _, rounds in measured) <= budgets._CHOICES
        met.append(one.met)
    assert np.mean(met) <= 0.25  # two in five of these searches hold a reading within 1 % of 0.8
