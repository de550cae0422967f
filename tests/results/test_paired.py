"""Paired differences: known answers, invariances, clusters, and equal arms that are rarely called different."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from results.analysis import paired as paired_module
from results.analysis import statistics
from results.analysis.differences import arms
from results.analysis.paired import Difference, paired, paired_many
from results.analysis.statistics import expanded_tail, resample_counts, resamples
from results.record import CaseFacts

VALUES = st.floats(-100, 100, width=32)
ARMS = st.integers(8, 20).flatmap(
    lambda n: st.tuples(arrays(float, n, elements=VALUES), arrays(float, n, elements=VALUES))
)


def numbers(one: Difference) -> list[float | None]:
    return [one.value, one.low, one.high, one.p, one.sd, one.detectable]


def test_counts_are_those_of_the_resamples():
    for n, replicates in ((7, 50), (1500, 1000)):  # the second in two strips
        counts = np.concatenate(list(resample_counts(n, replicates, seed=3)))
        wanted = np.stack([np.bincount(row, minlength=n) for row in resamples(n, replicates, seed=3)])
        np.testing.assert_array_equal(counts, wanted)
    with pytest.raises(ValueError):
        resample_counts(0, 5)


def test_value_spread_and_detectable_difference_by_hand():
    """Differences 1, 3, 1, 3, ...: mean 2, and variance 8 / 7 for eight of them."""
    found = paired([1.0, 3.0] * 4, np.zeros(8))
    assert found.value == 2 and (found.n, found.clusters) == (8, 8)
    assert found.sd == pytest.approx((8 / 7) ** 0.5)
    assert found.detectable == pytest.approx((2.36462 + 0.89603) * (8 / 7) ** 0.5 / 8**0.5, rel=1e-5)  # t with 7 df
    assert found.p == 2 / 2**8  # only all signs as they are, or all turned, come as far


def test_p_is_exact_by_enumeration():
    rng = np.random.default_rng(0)
    for n in (8, 12):
        differences = rng.integers(-2, 4, size=n) / 3  # ties and zeros
        sums = [abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=n)]
        wanted = np.mean(np.array(sums) >= abs(differences.sum()) - 1e-12)
        assert paired(differences, np.zeros(n)).p == pytest.approx(wanted, abs=1e-12)
        drawn = paired(differences, np.zeros(n), resamples=2**n - 1).p  # drawn, not enumerated
        assert drawn == pytest.approx(wanted, abs=0.1) and (drawn != wanted or wanted <= 0.05)  # rare: enumerated


def test_p_agrees_with_scipys_permutation_test():
    x = np.random.default_rng(1).normal(0.3, 1, size=40)
    wanted = stats.permutation_test(
        (x,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(2)
    )
    assert paired(x, np.zeros(40)).p == pytest.approx(wanted.pvalue, abs=0.01)


def test_the_interval_is_the_expanded_percentile_interval():
    x = np.random.default_rng(2).exponential(size=30)
    found = paired(x, np.zeros(30), resamples=3000, seed=5)
    tail = stats.norm.cdf(np.sqrt(30 / 29) * stats.t.ppf(0.025, 29))
    means = x[resamples(30, 3000, seed=5)].mean(1)
    assert expanded_tail(30) == pytest.approx(tail)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [tail, 1 - tail])))


def test_for_normal_data_it_is_as_wide_as_students():
    x = stats.norm.ppf((np.arange(16) + 0.5) / 16)
    found = paired(x, np.zeros(16), resamples=40_000)
    half = stats.t.ppf(0.975, 15) * found.sd / 4
    assert found.high == pytest.approx(half, rel=0.05) and found.low == pytest.approx(-half, rel=0.05)


def test_identical_arms():
    x = np.random.default_rng(3).normal(size=20)
    assert paired(x, x) == Difference(0.0, 0.0, 0.0, 1.0, 20, 20, 0.0, 0.0)


def test_few_cases_have_no_test_and_one_has_no_interval():
    few = paired(np.arange(7.0), np.zeros(7))
    assert few.p is None and few.low is not None and few.low < 3 < few.high
    assert paired([2.0], [0.5]) == Difference(1.5, None, None, None, 1, 1, None, None)
    together = paired([2.0, 4.0], [1.0, 1.0], clusters=["a", "a"])
    assert together == Difference(2.0, None, None, None, 2, 1, None, None)


# -- invariances ---------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(ARMS)
def test_turning_the_arms_around_turns_the_sign(arms):
    there, back = paired(*arms, resamples=300), paired(*arms[::-1], resamples=300)
    assert numbers(there) == pytest.approx(
        [-back.value, -back.high, -back.low, back.p, back.sd, back.detectable], abs=1e-9
    )


@settings(max_examples=40, deadline=None)
@given(ARMS, st.floats(-50, 50), st.floats(0.125, 8))
def test_a_shift_and_a_scale_go_through(arms, shift, scale):
    before, after = paired(*arms, resamples=300), paired(scale * arms[0] + shift, scale * arms[1], resamples=300)
    wanted = [scale * before.value + shift, scale * before.low + shift, scale * before.high + shift, scale * before.sd]
    assert [after.value, after.low, after.high, after.sd] == pytest.approx(wanted, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(ARMS)
def test_what_the_cases_share_cancels(arms):
    shared = np.linspace(-10, 10, len(arms[0]))
    alone, beside = paired(*arms, resamples=300), paired(arms[0] + shared, arms[1] + shared, resamples=300)
    assert numbers(beside)[:3] == pytest.approx(numbers(alone)[:3], abs=1e-9)


def test_many_points_are_each_as_if_alone_and_share_the_resamples():
    rng = np.random.default_rng(4)
    methods, comparator = rng.normal(size=(5, 300)), rng.normal(size=300)
    for clusters in (None, np.arange(300) // 3):
        together = paired_many(methods, comparator, clusters, resamples=4000)
        each = [paired(row, comparator, clusters, resamples=4000) for row in methods]
        against_own = paired_many(methods, np.tile(comparator, (5, 1)), clusters, resamples=4000)
        for one, alone, own in zip(together, each, against_own, strict=True):
            assert numbers(one) == pytest.approx(numbers(alone), abs=1e-12)
            assert own == one
    assert paired_many(np.empty((0, 4)), np.zeros(4)) == ()


def test_the_seed_is_private_and_counts():
    x = np.random.default_rng(5).normal(size=30)
    before = np.random.get_state()[1].copy()
    assert paired(x, 0 * x, seed=1) == paired(x, 0 * x, seed=1) != paired(x, 0 * x, seed=2)
    np.testing.assert_array_equal(before, np.random.get_state()[1])


# -- clusters ------------------------------------------------------------------------------------------------


def test_copies_of_each_case_narrow_nothing():
    rng = np.random.default_rng(6)
    x, y = rng.normal(0.2, 1, size=(2, 30))
    alone = paired(x, y)
    copied = paired(np.repeat(x, 4), np.repeat(y, 4), clusters=np.repeat(np.arange(30), 4))
    assert (copied.n, copied.clusters) == (120, 30)
    assert numbers(copied) == pytest.approx(numbers(alone), abs=1e-12)
    careless = paired(np.repeat(x, 4), np.repeat(y, 4))
    assert careless.high - careless.low < 0.6 * (alone.high - alone.low) and careless.p < alone.p


def test_clusters_of_unequal_size_weigh_by_their_cases():
    """Two cases of prompt "a", one of each other: the mean is over the cases, and a resample divides by its own."""
    x, labels = np.array([1.0, 2, 4, 0, 0, 5, 1, 1, 3]), list("aabcdefgh")
    found = paired(x, np.zeros(9), labels, resamples=500)
    sums, sizes = np.array([3.0, 4, 0, 0, 5, 1, 1, 3]), np.array([2, 1, 1, 1, 1, 1, 1, 1])
    drawn = resamples(8, 500)
    tail = expanded_tail(8)
    assert found.value == pytest.approx(17 / 9) and (found.n, found.clusters) == (9, 8)
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [tail, 1 - tail])))
    assert found.sd == pytest.approx(np.sqrt(((sums - 17 / 9 * sizes) ** 2).sum() / 7) * 8 / 9)


def test_the_order_of_the_cases_does_not_matter_to_clusters():
    rng = np.random.default_rng(7)
    x, labels, order = rng.normal(size=40), np.repeat(np.arange(10), 4), rng.permutation(40)
    assert numbers(paired(x[order], np.zeros(40), labels[order])) == pytest.approx(
        numbers(paired(x, np.zeros(40), labels)), abs=1e-12
    )


# -- simulated -----------------------------------------------------------------------------------------------

DRAWS = {
    "normal": lambda rng, size: rng.normal(size=size),
    "Laplace": lambda rng, size: rng.laplace(size=size),
    "heavy tails": lambda rng, size: rng.standard_t(3, size=size),
    "mostly zero": lambda rng, size: rng.choice([-1 / 3, 0, 1 / 3], p=[0.1, 0.8, 0.1], size=size),
}


@pytest.mark.parametrize("shape", DRAWS)
@pytest.mark.parametrize(("n", "seeds"), [(16, 1), (64, 1), (16, 4)])
def test_equal_arms_are_called_different_in_7_of_100_at_most(shape, n, seeds):
    """A thousand pairs (sampling error 0.7 in 100); with several seeds a prompt's differences have much in common."""
    rng = np.random.default_rng([0, n, seeds])
    cases = np.repeat(DRAWS[shape](rng, (1000, n)), seeds, axis=1)
    if seeds > 1:
        cases = cases + DRAWS[shape](rng, cases.shape)
    found = paired_many(cases, np.zeros(n * seeds), np.repeat(np.arange(n), seeds), resamples=1000)
    assert np.mean([one.low > 0 or one.high < 0 for one in found]) <= 0.07
    assert np.mean([one.p <= 0.05 for one in found]) <= 0.07


def test_the_detectable_difference_is_detected_8_times_in_10():
    noise = np.random.default_rng(8).normal(size=(1000, 64))
    printed = np.mean([one.detectable for one in paired_many(noise, np.zeros(64), resamples=500)])
    found = paired_many(noise + printed, np.zeros(64), resamples=1000)
    assert 0.75 <= np.mean([one.p <= 0.05 for one in found]) <= 0.85
    assert 0.75 <= np.mean([one.low > 0 for one in found]) <= 0.85


# -- refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: paired([1.0, np.nan], [0.0, 0.0]), "method: 1 values NaN or infinite"),
        (lambda: paired([1.0, 2.0], [0.0, np.inf]), "comparator: 1 values NaN"),
        (lambda: paired_many([[1.0, 2.0], [np.nan, np.nan]], [0.0, 0.0]), r"method: 2 values of points \[1\]"),
        (lambda: paired([1.0, 2.0], [0.0, 0.0, 0.0]), "same cases"),
        (lambda: paired([], []), "no cases"),
        (lambda: paired([1.0, 2.0], [0.0, 0.0], clusters=[1]), "one label per case"),
        (lambda: paired([1.0, 2.0], [0.0, 0.0], resamples=0), "one replicate"),
    ],
)
def test_what_has_no_answer_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_draws_that_are_kept_and_those_that_are_not_give_the_same(monkeypatch):
    """A verdict makes hundreds of comparisons of as many cases, which share their draws; nobody may change them."""
    x = np.random.default_rng(5).gamma(2, 1, (2, 30)) - 1.5
    kept = [paired(row, np.zeros(30), resamples=700) for row in (*x, *x)]
    assert kept[:2] == kept[2:] and kept[0] != kept[1]
    with pytest.raises(ValueError, match="read-only"):
        next(iter(resample_counts(30, 700)))[0, 0] = 9
    for module in (statistics, paired_module):
        monkeypatch.setattr(module, "KEPT", 0)
    assert [paired(row, np.zeros(30), resamples=700) for row in x] == kept[:2]


# -- which cases belong together -------------------------------------------------------------------------------------


def test_cases_of_one_prompt_or_picture_are_a_cluster(judged):
    def record(values, cases):
        facts = [CaseFacts(prompt=prompt, seed=row, facts=about) for row, (prompt, about) in enumerate(cases)]
        return judged("m", 0.2, values, cases=tuple(facts))

    cases = [("a", {"picture": "1.png"}), ("b", {"picture": "1.png"}), ("b", {"picture": "2.png"}), ("c", {"emoji": 7}),
             ("d", {"emoji": 8}), ("e", {"emoji": 7})]  # fmt: skip
    found = arms(record(np.arange(6.0), cases), record(np.zeros(6), cases), "truth[judge]").clusters
    assert found is not None and len(set(found)) == 3
    assert len(set(found[:3])) == 1 and found[3] == found[5] != found[4]
    alone = [(prompt, {"picture": f"{row}.png"}) for row, prompt in enumerate("abcdef")]
    assert arms(record(np.arange(6.0), alone), record(np.zeros(6), alone), "truth[judge]").clusters is None
