"""Intervals: known answers, pairing, coverage, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from results.analysis.statistics import (
    block_size,
    bootstrap,
    centred_interval,
    mean_interval,
    paired_ratio,
    percentile_interval,
    resamples,
)


def test_resamples_are_paired_and_private():
    np.random.seed(7)
    before = np.random.get_state()[1].copy()
    drawn = resamples(10)
    assert drawn.shape == (200, 10)
    assert drawn.min() == 0 and drawn.max() == 9
    np.testing.assert_array_equal(drawn, resamples(10))
    np.testing.assert_array_equal(drawn[:50], resamples(10, 50))
    assert (drawn != resamples(10, seed=1)).any()
    np.testing.assert_array_equal(before, np.random.get_state()[1])


def test_bootstrap_agrees_with_its_definition():
    values = np.random.default_rng(0).normal(size=30)
    got = bootstrap(values, np.mean)
    means = values[resamples(30)].mean(axis=1)
    assert got.value == pytest.approx(values.mean())
    assert got.replicates == pytest.approx(means)
    assert (got.low, got.high) == pytest.approx(np.percentile(means, [2.5, 97.5]))


def test_the_interval_of_a_mean_has_the_known_width():
    values = np.random.default_rng(1).normal(5, 2, size=400)
    got = bootstrap(values, replicates=2000)
    expected = 1.96 * values.std() / 20
    assert got.high - got.value == pytest.approx(expected, rel=0.1)
    assert got.value - got.low == pytest.approx(expected, rel=0.1)


def test_the_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(2)
    intervals = [bootstrap(rng.normal(size=40)) for _ in range(200)]
    covered = sum(one.low <= 0 <= one.high for one in intervals)
    assert 180 <= covered <= 199


def test_points_with_the_same_noise_differ_surely():
    scores = np.random.default_rng(3).normal(size=50)
    worse, better = bootstrap(scores), bootstrap(scores + 0.01)
    assert worse.high > better.low  # the intervals overlap widely, and yet every pair of replicates agrees:
    assert all(w < b for w, b in zip(worse.replicates, better.replicates, strict=True))


def test_one_case_has_no_interval():
    assert bootstrap([3.0]) == (3.0, None, None, ())
    assert paired_ratio([3.0], [2.0]) == (1.5, None, None, ())
    assert centred_interval(2.0, []) == (2.0, None, None, ())
    assert centred_interval(2.0, [5.0]) == (2.0, None, None, ())


def test_constant_values_have_a_point_as_interval():
    assert bootstrap([4.0] * 5)[:3] == (4.0, 4.0, 4.0)
    assert centred_interval(1.0, [3.0, 3.0])[:3] == (1.0, 1.0, 1.0)


def test_the_interval_of_few_zeros_and_ones_holds_what_may_be():
    assert mean_interval([0.0] * 16, share=True)[:3] == pytest.approx(
        (0, 0, 0.1936), abs=1e-3
    )  # Wilson's, from a table
    assert mean_interval([1.0] * 16, share=True)[:3] == pytest.approx((1, 0.8064, 1), abs=1e-3)
    share, low, high, _ = mean_interval([1.0] * 5 + [0.0] * 15, share=True)
    assert (share, low, high) == pytest.approx((0.25, 0.1119, 0.4687), abs=1e-3)
    assert mean_interval([0.0] * 16)[:3] == (0, 0, 0)  # a distance, and no share


def test_the_interval_of_few_values_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(5)
    drawn = [(rng.normal(size=10), seed) for seed in range(600)]
    inside = {
        kind: np.mean([one.low <= 0 <= one.high for one in (kind(x, seed=seed) for x, seed in drawn)])
        for kind in (mean_interval, bootstrap)
    }
    assert inside[mean_interval] > 0.91 > inside[bootstrap]  # of 200 replicates, which cost a percent
    assert mean_interval([3.0])[:3] == (3.0, None, None)


def test_centring_keeps_the_spread_and_moves_the_place():
    biased = np.random.default_rng(4).normal(loc=9.0, scale=0.5, size=200)
    value, low, high, shifted = centred_interval(2.0, biased)
    assert value == 2.0 and np.mean(shifted) == pytest.approx(2.0)
    assert np.std(shifted) == pytest.approx(biased.std())
    plain = percentile_interval(biased)
    assert plain[0] > value  # what centring repairs
    assert low < value < high
    assert high - low == pytest.approx(plain[1] - plain[0])


def test_duplicates_bias_an_unbiased_squared_distance_upwards():
    """The case for centring: the U-statistic of |E x|^2, built as KID is, rises under resampling."""
    x = np.random.default_rng(5).normal(size=(40, 64))

    def unbiased(rows):
        gram = rows @ rows.T
        return (gram.sum() - np.trace(gram)) / (len(rows) * (len(rows) - 1))

    value = unbiased(x)
    drawn = [unbiased(x[index]) for index in resamples(40)]
    assert percentile_interval(drawn)[0] > value
    _, low, high, _ = centred_interval(value, drawn)
    assert low < value < high


def test_a_ratio_ignores_drift_that_hits_both():
    rng = np.random.default_rng(6)
    drift = np.linspace(1, 3, 50)
    dense = drift * rng.normal(1, 0.01, 50)
    method = 0.8 * drift * rng.normal(1, 0.01, 50)
    value, low, high, replicates = paired_ratio(method, dense)
    assert value == pytest.approx(np.median(method / dense))
    assert low < 0.8 < high and high - low < 0.02
    assert len(replicates) == 200


def test_blocks_are_the_unit_of_a_ratios_interval():
    a = np.array([1.0, 1.2, 0.9, 0.9, 1.3, 1.1, 0.8, 1.0, 1.0, 1.0, 1.4, 1.4])
    value, low, high, _ = paired_ratio(a, np.ones(12), block=2)
    assert (value, low, high) == pytest.approx((1.05, 0.9, 1.4))  # blocks: 1.1 0.9 1.2 0.9 1.0 1.4
    ordered = np.arange(1.0, 13.0)  # of twelve the third and the third last hold the median 96 times in 100
    assert paired_ratio(ordered, np.ones(12))[:3] == pytest.approx((6.5, 3.0, 10.0))
    few = paired_ratio([1.0, 1.1, 1.21], np.ones(3))  # logarithms 0, l, 2 l: mean l, standard error l / sqrt(3)
    half = 4.3027 * np.log(1.1) / np.sqrt(3)
    assert (few.low, few.high) == pytest.approx((1.1 * np.exp(-half), 1.1 * np.exp(half)), rel=1e-4)
    assert [block_size(pairs) for pairs in (1, 3, 6, 7, 12, 13)] == [1, 1, 1, 2, 2, 3]


@pytest.mark.parametrize(("pairs", "block"), [(3, 1), (6, 1), (12, 2), (20, 4)])
def test_intervals_of_equal_runs_hold_one_where_blocks_differ(pairs, block):
    """Each block is slowed down by something of its own, which hits one of the two runs: 95 of 100 hold 1."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(1000):
        shift = np.repeat(rng.normal(0, 0.03, -(-pairs // block)), block)[:pairs]
        noise = rng.standard_t(3, pairs) * 0.01
        found = paired_ratio(np.exp(shift + noise), np.ones(pairs), block=block)
        inside += found.low <= 1 <= found.high
    assert inside >= 930


@pytest.mark.parametrize(
    "call",
    [
        lambda: bootstrap([1.0, np.nan]),
        lambda: bootstrap([1.0, np.inf]),
        lambda: bootstrap([]),
        lambda: bootstrap([1.0, 2.0], lambda sample: np.nan),
        lambda: centred_interval(np.nan, [1.0, 2.0]),
        lambda: centred_interval(1.0, [1.0, np.nan]),
        lambda: paired_ratio([1.0, np.nan], [1.0, 1.0]),
        lambda: paired_ratio([1.0, 1.0], [1.0]),
        lambda: paired_ratio([1.0, 1.0], [1.0, 0.0]),
        lambda: resamples(0),
        lambda: resamples(5, replicates=0),
    ],
)
def test_what_has_no_answer_is_refused(call):
    with pytest.raises(ValueError):
        call()
