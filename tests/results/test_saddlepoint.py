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
    assert np.exp(np.mean(np.log(ratios))) == pytest.approx(1.05, abs=0.1)
    assert min(ratios) > 0.85 and max(ratios) < 1.4


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
