"""Small p of sign flips: against enumeration, and where hundreds of comparisons are adjusted together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from results.analysis.multiplicity import holm
from results.analysis.paired import paired, sign_flip
from results.analysis.saddlepoint import LEAST, sign_flip_tail

SHAPES = {
    "normal": lambda rng, n: rng.normal(0.6, 1, n),
    "heavy tails": lambda rng, n: rng.standard_t(3, n) + 0.8,
    "mostly zero": lambda rng, n: rng.choice([-1, 0, 1, 1], n) / 3,
    "skewed": lambda rng, n: rng.exponential(1, n) - 0.45,
}


def enumerated(differences: np.ndarray) -> float:
    signs = ((np.arange(2 ** len(differences))[:, None] >> np.arange(len(differences))) & 1) * 2.0 - 1
    return float(np.mean(np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_tail_is_that_of_all_assignments(shape):
    """At 18 clusters, where one assignment in 262,144 is still a step of its own; more clusters come closer."""
    rng, ratios = np.random.default_rng(3), []
    while len(ratios) < 12:
        differences = SHAPES[shape](rng, 18)
        wanted = enumerated(differences)
        if 1e-3 < wanted < 0.05:
            ratios.append(sign_flip_tail(differences) / wanted)
    assert np.exp(np.mean(np.log(ratios))) == pytest.approx(1.03, abs=0.08)
    assert min(ratios) > 0.8 and max(ratios) < 1.3


LATTICES = {"one size": [1], "2 and 3": [2, 3], "3 to 5": [3, 4, 5], "many": list(range(50, 151))}


@pytest.mark.parametrize("sizes", LATTICES.values(), ids=LATTICES)
@pytest.mark.parametrize("scale", [1, 1 / 3, 0.017])
def test_the_tail_on_a_lattice_is_that_of_all_sums(sizes, scale):
    """Multiples of one unit, 32 of them: the exact distribution is counted sum by sum."""
    rng, ratios = np.random.default_rng(4), []
    while len(ratios) < 8:
        whole = rng.choice(sizes, 32) * rng.choice([-1, 1, 1, 1], 32)
        wanted = counted(whole)
        if 1e-5 < wanted < 0.05:
            ratios.append(sign_flip_tail(scale * whole) / wanted)
    assert np.exp(np.mean(np.log(ratios))) == pytest.approx(1.03, abs=0.06)
    assert min(ratios) > 0.9 and max(ratios) < 1.25


def counted(whole: np.ndarray) -> float:
    """Two-sided p of integers, exactly."""
    chances = {0: 1.0}
    for size in np.abs(whole).tolist():
        after: dict[int, float] = {}
        for total, chance in chances.items():
            for now in (total + size, total - size):
                after[now] = after.get(now, 0.0) + chance / 2
        chances = after
    return sum(chance for total, chance in chances.items() if abs(total) >= abs(int(whole.sum())))


def test_sizes_nearly_alike_err_to_the_safe_side():
    rng = np.random.default_rng(5)
    for _ in range(10):
        whole = rng.integers(90, 111, 32) * rng.choice([-1, 1, 1, 1], 32)
        if 1e-4 < (wanted := counted(whole)) < 0.05:
            assert 1 < sign_flip_tail(whole / 100) / wanted < 3


def test_sums_that_are_zero_but_for_rounding_are_zero():
    """Thirds in clusters: 1/3 + (2/3 - 1) is not 0 in floating point, and would pass for the smallest size."""
    rounded = (1 / 3 - 0) + (2 / 3 - 1)
    assert rounded != 0
    differences = np.append(np.full(34, 1 / 3), [rounded, -rounded, rounded, rounded])
    assert sign_flip_tail(differences) == LEAST
    mixed = np.append(np.where(np.arange(36) < 9, -1 / 3, 1 / 3), [rounded] * 4)
    assert sign_flip_tail(mixed) == pytest.approx(sign_flip_tail(mixed[:36]), rel=1e-9)
    assert paired(differences, 0 * differences).p == LEAST


def test_hand_counts():
    """Ten differences of one size and sign: 2 of 1,024 assignments come as far. With one turned: 2 * 11."""
    ones = np.ones(30)
    assert sign_flip_tail(ones) == LEAST  # 2 of 2^30
    assert sign_flip_tail(ones[:10]) == 2 / 2**10
    assert sign_flip_tail(np.append(ones[:10], np.zeros(50))) == 2 / 2**10
    turned = ones[:10] * [-1, *[1] * 9]
    assert sign_flip_tail(turned) == pytest.approx(22 / 2**10, rel=0.2)
    with pytest.raises(ValueError, match="zero"):
        sign_flip_tail(np.zeros(9))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(21, 80), st.floats(-3, 3), st.floats(1e-6, 1e6))
def test_a_p_whatever_the_scale_and_the_sign(seed, n, shift, scale):
    differences = np.random.default_rng(seed).normal(shift, 1, n)
    p = sign_flip_tail(differences)
    assert LEAST <= p <= 1
    assert sign_flip_tail(-differences) == p and sign_flip_tail(scale * differences) == pytest.approx(p, rel=1e-6)


def test_the_draws_do_not_decide_what_is_rare():
    x = np.random.default_rng(5).normal(0, 1, 64)
    x += 0.35 - x.mean()
    assert paired(x, 0 * x, seed=1).p == paired(x, 0 * x, seed=2).p < 0.05
    few = np.random.default_rng(6).normal(0.7, 1, 16)
    assert paired(few, 0 * few).p == pytest.approx(enumerated(few), abs=1e-12)  # 2^16: not drawn where it is rare


def test_a_clear_difference_stays_clear_among_a_thousand_comparisons():
    clear = sign_flip(np.random.default_rng(7).normal(1, 1, (1, 256)))[0]
    assert clear == LEAST and holm([clear, *[1.0] * 1080])[0] <= 0.05
