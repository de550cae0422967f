"""Non-inferiority, the number of images that settles, tied ranks and the probability of the best."""

import numpy as np
import pytest
from scipy import stats

from results.analysis.noninferiority import LEVEL, from_limit, one_sided
from results.analysis.paired import paired, sign_flip, standard_errors
from results.analysis.power import images_to_settle, seconds_per_image
from results.analysis.ranks import probability_best, rank_sets
from results.analysis.skewness import skew_adjusted_p


def p_of(method, comparator, margin=0.01, better="lower"):
    return one_sided(from_limit(method, comparator, margin, better, paired), better)


def test_a_loss_at_the_margin_is_called_harmless_at_most_25_times_in_1000():
    rng = np.random.default_rng(0)
    called = 0
    for _ in range(400):
        dense = rng.gamma(9, 2 / 3, 64)
        called += p_of(dense * 1.01 + rng.normal(0, 0.1, 64), dense) <= LEVEL
    assert called <= 20  # 10 expected; more than 20 are as good as impossible


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_no_loss_is_no_worse_and_a_large_one_is_not(better):
    rng = np.random.default_rng(1)
    dense, noise = rng.gamma(9, 2 / 3, 64), rng.normal(0, 0.05, 64)
    worse = 1 if better == "lower" else -1
    assert p_of(dense + noise, dense, better=better) <= LEVEL
    assert p_of(dense + worse * 0.2 + noise, dense, better=better) > 0.9
    assert p_of(dense[:7], dense[:7], better=better) is None  # fewer than 8 images


def test_a_smaller_margin_is_harder_to_meet():
    rng = np.random.default_rng(2)
    dense = rng.gamma(9, 2 / 3, 64)
    method = dense + rng.normal(0.02, 0.1, 64)
    assert p_of(method, dense, 0.02) < p_of(method, dense, 0.01) < p_of(method, dense, 0.002)


def test_images_that_settle_are_those_at_which_the_difference_is_detectable():
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 1, 64)
    found = paired(noise - noise.mean() + 0.2, np.zeros(64))
    n = images_to_settle(found, None, "lower")
    assert n is not None and found.sd is not None
    assert standard_errors(n) * found.sd / n**0.5 <= 0.2 < standard_errors(n - 2) * found.sd / (n - 2) ** 0.5
    more = images_to_settle(found, None, "lower", tests=9)
    assert more is not None and more > n
    assert images_to_settle(paired(np.ones(64), np.ones(64)), None, "lower") is None  # no number would


def test_a_margin_settles_what_no_difference_can():
    rng = np.random.default_rng(4)
    dense, noise = rng.gamma(9, 2 / 3, 64), rng.normal(0, 0.5, 64)
    method = dense + noise - noise.mean() + 1e-3
    limit = from_limit(method, dense, 0.01, "lower", paired)
    with_margin = images_to_settle(paired(method, dense), limit, "lower")
    assert with_margin is not None and with_margin < 2000  # the difference alone would take millions


def test_seconds_per_image(record, estimate):
    slow = {"latency_s": estimate(2.0)}
    assert seconds_per_image(record(estimates=slow)) == 2.0
    assert seconds_per_image(record(estimates=slow | {"throughput_images_s": estimate(4.0)})) == 0.25
    assert seconds_per_image(record(seconds=48.0)) == 2.0  # 24 cases
    assert seconds_per_image(record()) is None


def test_rank_sets():
    """0 beats 2 alone; 1 is told apart from nobody."""
    first, second, third = rank_sets({(0, 2): True, (2, 0): False}, 3)
    assert (first.low, first.high, second.low, second.high, third.low, third.high) == (1, 2, 1, 3, 2, 3)


def test_the_probability_of_the_best():
    rng = np.random.default_rng(5)
    base = rng.normal(size=64)
    values = [base, base + 0.5, base]
    assert probability_best(values, "lower").tolist() == [0.5, 0.0, 0.5]  # equal ones share
    assert probability_best(values, "higher").tolist() == [0.0, 1.0, 0.0]
    near = [base, base + rng.normal(0.02, 0.3, 64)]
    assert 0.05 < probability_best(near, "lower", np.repeat(np.arange(16), 4))[1] < 0.95
    with pytest.raises(ValueError, match="finite values"):
        probability_best([[np.nan, 1.0]], "lower")


def test_training_seeds_make_the_best_less_sure():
    """Two points whose seeds scatter more than their means differ: images alone call it sure."""
    rng = np.random.default_rng(8)
    images = rng.normal(size=200)
    scatter = np.array([-0.3, 0.0, 0.3])
    one = images + (scatter + 0.05)[:, None]
    other = images + scatter[::-1][:, None]
    assert probability_best([one.mean(0), other.mean(0)], "lower").tolist() == [0, 1]
    unsure = probability_best([one, other], "lower")
    assert 0.3 < unsure[0] < 0.5 and unsure.sum() == pytest.approx(1)
    alike = probability_best([images + (scatter + 0.05)[:, None], images + scatter[:, None]], "lower")
    assert alike.tolist() == [0, 1]  # seeds are paired, and each says the same
    beside = probability_best([one, images], "lower")
    assert 0.2 < beside[0] < 0.5  # a point without training has images alone
    repeated = probability_best([np.repeat(images[None], 3, 0), np.repeat(images[None] + 0.1, 3, 0)], "lower")
    assert repeated.tolist() == [1, 0]


def test_the_probability_of_the_best_is_as_wide_as_seeds_are():
    """Of a point against a fixed level, with what normal seeds give: P(Z < t), their standard error unbiased."""
    found = []
    for seed in range(60):
        each = np.random.default_rng(seed).normal(0.1, 0.2, size=(3, 1)) + np.zeros(16)
        found.append(probability_best([each, np.zeros(16)], "lower", resamples=400)[0])
    assert 0.2 < np.mean(found) < 0.32


def test_skewed_differences_are_called_no_more_often_than_others():
    """At a level to which a family of nine adjusts. Sign flips alone call more than twice as often as they should."""
    rng = np.random.default_rng(6)
    drawn = rng.gamma(2, 0.2, (3000, 16)) - 0.4
    flips, skew = sign_flip(drawn, 4000), np.array([skew_adjusted_p(one) for one in drawn])
    assert (flips <= 0.01).mean() > 0.02 > (np.maximum(flips, skew) <= 0.01).mean()


def test_the_skew_adjusted_test_without_skew_is_the_t_test():
    values = np.array([-2.0, -1, 0, 1, 2, -1.5, 1.5, 0]) + 1
    t = values.mean() / (values.std(ddof=1) / 8**0.5)
    assert skew_adjusted_p(values) == pytest.approx(2 * stats.t.sf(t, 7))
    assert skew_adjusted_p(np.zeros(8)) == 1 and skew_adjusted_p(np.ones(8)) == 0


def test_a_clear_difference_is_clear_whichever_way_it_is_skewed():
    """The adjustment grows with t throughout, so that a large difference never looks small."""
    skewed = np.random.default_rng(7).gamma(1, 1, 64)
    assert skew_adjusted_p(skewed + 2) < 1e-6 and skew_adjusted_p(-skewed - 2) < 1e-6
    assert skew_adjusted_p(skewed - 4) < 1e-6 and skew_adjusted_p(4 - skewed) < 1e-6
