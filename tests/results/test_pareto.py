"""The front by its definition, as properties and in known cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from results.analysis.pareto import comparable, front, front_share

grid = st.integers(-3, 3).map(float)  # few values, hence many ties
wide = st.floats(-1e6, 1e6)
points = st.lists(st.tuples(grid, grid) | st.tuples(wide, wide), min_size=1, max_size=12)
direction = st.sampled_from(["higher", "lower"])


def dominates(a, b, better):
    """Whether point a = (cost, quality) beats b; written apart from the code under test."""
    quality = (lambda p: p[1]) if better == "higher" else (lambda p: -p[1])
    return a[0] <= b[0] and quality(a) >= quality(b) and (a[0] < b[0] or quality(a) > quality(b))


@settings(deadline=None)
@given(points, direction)
def test_a_point_is_off_the_front_just_when_one_on_it_dominates_it(drawn, better):
    mask = front(*zip(*drawn, strict=True), better)
    best = [p for p, on in zip(drawn, mask, strict=True) if on]
    assert best
    for p, on in zip(drawn, mask, strict=True):
        assert on != any(dominates(other, p, better) for other in drawn)
        assert on != any(dominates(other, p, better) for other in best)


@settings(deadline=None)
@given(points, direction, st.randoms(use_true_random=False))
def test_the_order_of_points_is_of_no_account(drawn, better, random):
    mask = front(*zip(*drawn, strict=True), better)
    order = random.sample(range(len(drawn)), len(drawn))
    shuffled = front(*zip(*(drawn[i] for i in order), strict=True), better)
    assert shuffled.tolist() == mask[order].tolist()


@settings(deadline=None)
@given(st.lists(st.tuples(grid, grid), min_size=1, max_size=12), direction)
def test_monotone_transforms_keep_the_front(drawn, better):
    cost, quality = map(np.array, zip(*drawn, strict=True))
    np.testing.assert_array_equal(front(cost, quality, better), front(np.exp(cost), quality**3 + 5, better))


def test_known_fronts():
    cost, quality = [1, 2, 3, 3, 4], [0.5, 0.4, 0.9, 0.8, 0.9]
    assert front(cost, quality).tolist() == [True, False, True, False, False]
    assert front(cost, quality, "lower").tolist() == [True, True, False, False, False]


def test_identical_points_share_the_front():
    assert front([1, 1, 2], [3, 3, 3]).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("cost", "quality", "better"),
    [([1, np.nan], [1, 2], "higher"), ([1, 2], [np.nan, 2], "lower"), ([1, 2], [1], "higher"), ([1], [1], "up")],
)
def test_nonsense_is_refused(cost, quality, better):
    with pytest.raises(ValueError):
        front(cost, quality, better)


def test_share_counts_resamples():
    cost = np.array([[1.0] * 4, [2.0] * 4])
    quality = np.array([[5.0, 5.0, 5.0, 5.0], [6.0, 6.0, 6.0, 4.0]])
    assert front_share(cost, quality, "higher").tolist() == [1.0, 0.75]
    assert front_share(cost, quality, "lower").tolist() == [1.0, 0.25]


def test_share_without_resamples_is_unknown():
    assert np.isnan(front_share(np.empty((2, 0)), np.empty((2, 0)))).all()
    with pytest.raises(ValueError, match=r"\(P, B\)"):
        front_share([[1.0]], [1.0])


def test_records_that_differ_in_what_must_match_are_kept_apart(record):
    base = record("a")
    others = [
        record("b", fingerprint={"weights": "other"}), record("c", n_cases=7), record("d", device="cuda"),
        record("e", steps=7), record("f", dtype="bfloat16"), record("h", task="inpainting"),
    ]  # fmt: skip
    # where a copy of the weights lies, and on which machine and commit a record was made, keeps nothing apart
    twin = record("z", fingerprint=dict(base.fingerprint), model="x", environment={"commit": "other", "device": "y"})
    groups = comparable([base, *others, twin])
    assert [[r.method for r in group] for group in groups] == [["a", "z"], *[[r.method] for r in others]]
    unknown = [record("a", fingerprint={}), record("b", fingerprint={}, model="x")]
    assert [len(group) for group in comparable(unknown)] == [1, 1]
    assert comparable([]) == []
