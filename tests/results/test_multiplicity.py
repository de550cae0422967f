"""Holm's correction: by hand, and what must hold for any family."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.analysis.multiplicity import holm

P = st.lists(st.none() | st.floats(0, 1), max_size=12)


def test_by_hand():
    """Sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1, which the one before lifts to 0.06."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_what_was_not_tested_does_not_count():
    assert holm([None, 0.02, None, 0.04]) == [None, pytest.approx(0.04), None, pytest.approx(0.04)]
    assert holm([]) == [] and holm([None]) == [None] and holm([0.6, 0.7]) == [1.0, 1.0]


@given(P)
def test_between_the_p_and_bonferronis_and_in_the_same_order(p):
    tested = [(raw, adjusted) for raw, adjusted in zip(p, holm(p), strict=True) if raw is not None]
    assert all(raw <= adjusted <= min(1, len(tested) * raw) or adjusted == min(1, raw) for raw, adjusted in tested)
    adjusted = [after for _, after in sorted(tested)]
    assert adjusted == sorted(adjusted)


def test_the_family_is_called_wrongly_at_most_5_times_in_100():
    p = np.random.default_rng(0).random((4000, 6))
    assert np.mean([min(holm(list(row))) <= 0.05 for row in p]) == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("p", [[1.2], [-0.1], [float("nan"), 0.1]])
def test_no_p_value(p):
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm(p)
