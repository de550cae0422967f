"""Paired FID and KID differences: against clean-fid and direct computation, and equal arms that are rarely called."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from results.analysis.distribution import fid_difference, kid_difference
from results.analysis.frechet import distance_to, influence, moments
from results.analysis.statistics import expanded_tail, resamples


def sets(n: int, width: int, noise: float = 0.3, seed: int = 0, shift: float = 0.0) -> tuple[np.ndarray, ...]:
    """Two arms of the same cases, the first one shifted, and a reference of 150."""
    rng = np.random.default_rng(seed)
    cases = rng.exponential(size=(n, width))
    x, y = (cases + noise * rng.normal(size=cases.shape) for _ in range(2))
    return x + shift, y, rng.exponential(size=(150, width))


def direct_kid(x: np.ndarray, y: np.ndarray, rows: np.ndarray | None = None) -> float:
    """Unbiased squared MMD by its definition, pairs of a row with its own copy left out."""
    rows = np.arange(len(x)) if rows is None else rows
    cubic = [(a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x[rows], x[rows]), (x[rows], y), (y, y))]
    different = rows[:, None] != rows
    others = ~np.eye(len(y), dtype=bool)
    return float(cubic[0][different].mean() - 2 * cubic[1].mean() + cubic[2][others].mean())


@pytest.mark.parametrize(("n", "width"), [(60, 8), (20, 40)])
def test_the_fid_difference_is_clean_fids(n, width):
    from cleanfid import fid

    x, y, reference = sets(n, width, shift=0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = fid.fid_from_feats(x, reference) - fid.fid_from_feats(y, reference)
    found = fid_difference(x, y, reference, resamples=50)
    assert found.value == pytest.approx(wanted, rel=1e-5)
    assert found == fid_difference(x, y, moments(reference), resamples=50)


def test_the_kid_difference_is_clean_fids():
    """With as many references as images each of its subsets is all of them; with more, within the subsets' noise."""
    from cleanfid import fid

    x, y, reference = sets(60, 8, shift=0.2)
    state = np.random.get_state()
    try:
        np.random.seed(0)
        same = reference[:60]
        wanted = fid.kernel_distance(x, same, num_subsets=1) - fid.kernel_distance(y, same, num_subsets=1)
        subsets = [fid.kernel_distance(x, reference, 1) - fid.kernel_distance(y, reference, 1) for _ in range(200)]
    finally:
        np.random.set_state(state)
    assert kid_difference(x, y, same, resamples=20).value == pytest.approx(wanted, rel=1e-9)
    noise = np.std(subsets) / 200**0.5
    assert kid_difference(x, y, reference, resamples=20).value == pytest.approx(np.mean(subsets), abs=4 * noise)


def test_a_kid_resample_is_computed_as_if_drawn():
    """The interval has their whole spread; the test's variance is between a third of it and all."""
    x, y, reference = sets(25, 6)
    drawn = np.array([
        direct_kid(x, reference, rows) - direct_kid(y, reference, rows) for rows in resamples(25, 200)
    ])  # fmt: skip
    found = kid_difference(x, y, reference, resamples=200)
    assert found.value == pytest.approx(direct_kid(x, reference) - direct_kid(y, reference))
    shrunk = (found.sd / 25**0.5) ** 2 / (drawn.var() * 25 / 24)
    assert 1 / 3 - 1e-9 <= shrunk <= 1 + 1e-9
    tail = expanded_tail(25)
    bounds = found.value + np.quantile(drawn - drawn.mean(), [tail, 1 - tail])
    assert (found.low, found.high) == pytest.approx(tuple(bounds))
    scaled = np.abs(drawn - drawn.mean()) * shrunk**0.5 * (25 / 24) ** 0.5
    assert found.p == pytest.approx((1 + (scaled >= abs(found.value)).sum()) / 201)


@pytest.mark.parametrize(("n", "width"), [(40, 5), (15, 30)])
def test_the_influence_is_the_derivative_by_the_weight_of_an_image(n, width):
    x, _, reference = sets(n, width)
    fitted = moments(reference)
    distance, step = distance_to(fitted, x), 1e-3
    found = influence(fitted, x)
    slopes = []
    for image in range(n):
        more, less = np.ones(n), np.ones(n)
        more[image] += step
        less[image] -= step
        slopes.append((distance(more) - distance(less)) / (2 * step))
    assert found - found.mean() == pytest.approx(slopes - np.mean(slopes), abs=1e-3 * np.ptp(slopes))


@pytest.mark.parametrize("difference", [fid_difference, kid_difference])
def test_identical_arms(difference):
    x, _, reference = sets(20, 5)
    found = difference(x, x, reference, resamples=50)
    assert (found.value, found.low, found.high, found.p, found.n, found.sd) == (0, 0, 0, 1, 20, 0)
    assert difference(x[:7], x[:7] + 1, reference, resamples=50).p is None


@pytest.mark.parametrize("difference", [fid_difference, kid_difference])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), shift=st.floats(-1, 1))
def test_turning_the_arms_around_turns_the_sign(difference, seed, shift):
    x, y, reference = sets(16, 4, seed=seed, shift=shift)
    there, back = (difference(*arms, reference, resamples=60) for arms in ((x, y), (y, x)))
    assert [there.value, there.low, there.high] == pytest.approx([-back.value, -back.high, -back.low], abs=1e-9)
    assert (there.p, there.sd) == pytest.approx((back.p, back.sd))


@pytest.mark.parametrize("difference", [fid_difference, kid_difference])
def test_a_worse_arm_is_found_the_surer_for_the_pairing(difference):
    x, y, reference = sets(64, 8, noise=0.05, shift=0.3)
    found = difference(x, y, reference, resamples=300)
    assert found.low > 0 and found.p < 0.01 and found.value > found.detectable
    alone = difference(x, sets(64, 8, noise=0.05, seed=1)[1], reference, resamples=300)  # an arm of other cases
    assert alone.detectable > 1.2 * found.detectable and alone.p > found.p


def test_equal_arms_are_called_different_in_7_of_100_at_most_and_the_error_is_about_true():
    pairs = [sets(64, 8, seed=seed) for seed in range(300)]
    found = [kid_difference(x, y, reference, resamples=200) for x, y, reference in pairs]
    assert np.mean([one.low > 0 or one.high < 0 for one in found]) <= 0.07
    assert np.mean([one.p <= 0.05 for one in found]) <= 0.07
    printed = np.sqrt(np.mean([one.sd**2 / 64 for one in found]))
    assert printed == pytest.approx(np.std([one.value for one in found]), rel=0.2)


@pytest.mark.parametrize(("difference", "width"), [(fid_difference, 3), (kid_difference, 8)])
def test_pictures_shown_twice_make_no_difference_surer(difference, width):
    """Equal arms, every case there twice but for a little noise: taken as cases of their own they are called different
    too often."""
    alone, together = [], []
    for seed in range(60):
        x, y, reference = sets(32, width, seed=seed)
        rng = np.random.default_rng(seed)
        x, y = (np.repeat(one, 2, axis=0) + 0.01 * rng.normal(size=(64, width)) for one in (x, y))
        pictures = np.repeat(np.arange(32), 2)
        alone.append(difference(x, y, reference, resamples=100))
        together.append(difference(x, y, reference, pictures, resamples=100))
    assert [one.value for one in alone] == [one.value for one in together]
    assert {one.clusters for one in together} == {32} and {one.n for one in together} == {64}
    assert np.mean([one.p <= 0.05 for one in together]) <= 0.1 < np.mean([one.p <= 0.05 for one in alone])
    each = np.mean([(one.high - one.low) for one in together]), np.mean([(one.high - one.low) for one in alone])
    assert each[0] > 1.3 * each[1]


def test_equal_arms_by_fid():
    found = [fid_difference(*sets(64, 8, seed=seed), resamples=100) for seed in range(100)]
    assert np.mean([one.low > 0 or one.high < 0 for one in found]) <= 0.07
    assert np.mean([one.p <= 0.05 for one in found]) <= 0.07


@pytest.mark.parametrize("difference", [fid_difference, kid_difference])
def test_what_has_no_answer_is_refused(difference):
    x, y, reference = sets(10, 4)
    holed = y.copy()
    holed[3, 1] = np.nan
    for arms, said in (
        ((x, holed, reference), "y: 1 features are NaN"),
        ((x, y[:9], reference), "the same cases"),
        ((x, y, reference[:, :3]), "reference of width 3"),
        ((x[:1], y[:1], reference), "two images"),
        ((x[0], y[0], reference), "two images"),
    ):
        with pytest.raises(ValueError, match=said):
            difference(*arms)


def test_two_cases_have_no_interval_of_a_kernel_distance() -> None:
    """All resamples have one pair of different cases, and agree."""
    x, y, reference = (np.random.default_rng(seed).normal(size=(size, 4)) for seed, size in ((0, 2), (1, 2), (2, 30)))
    found = kid_difference(x, y, reference, resamples=50)
    assert found.low is None and found.high is None and found.p is None
