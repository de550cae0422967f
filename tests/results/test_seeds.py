"""Training seeds taken together."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from results import Table
from results.analysis.differences import NotComparable
from results.analysis.seeds import over_seeds, paired_over_seeds, pooled, several
from results.outputs import write_tables
from results.tables.markdown import summary


@pytest.fixture
def two(record, estimate):
    """Two seeds of one method, dense beside them."""

    def made(method, seed, value, spread=0.0, gmacs=0.6):
        alignment = estimate(value, low=value - spread, high=value + spread, role="quality", better="higher")
        settings = {} if seed is None else {"ratio": 0.2, "seed": seed}
        ratio = None if seed is None else 0.2
        estimates = {"alignment": alignment, "gmacs": estimate(gmacs, role="cost", better="lower")}
        return record(method, ratio, settings=settings, estimates=estimates)

    return [made("dense", None, 0.95, 0.01, 0.8), made("diffcr", 0, 0.8), made("diffcr", 1, 0.9, gmacs=0.62)]


def test_the_interval_is_students_over_the_seeds(two):
    """Two values 0.1 apart: the standard error is 0.05, and t with one degree of freedom 12.706."""
    assert several(two)
    frame = pooled(two).set_index("method")
    row = frame.loc["diffcr"]
    assert row["seeds"] == 2 and row["alignment"] == pytest.approx(0.85) and row["gmacs"] == pytest.approx(0.61)
    half = 12.7062 * 0.05
    assert row["alignment_low"] == pytest.approx(0.85 - half, abs=1e-5)
    assert row["alignment_high"] == pytest.approx(0.85 + half, abs=1e-5)
    assert row["gmacs_high"] == pytest.approx(0.61 + 12.7062 * 0.01, abs=1e-5)
    assert row["settings"] == '{"ratio":0.2}'


def test_one_seed_has_the_interval_of_its_cases(two):
    dense = pooled(two).set_index("method").loc["dense"]
    assert dense["seeds"] == 1
    assert dense["alignment_low"] == pytest.approx(0.94) and dense["alignment_high"] == pytest.approx(0.96)
    assert pd.isna(dense["gmacs_low"])


def test_seeds_that_cost_the_same_have_a_point_as_interval():
    assert over_seeds([0.1, 0.1, 0.1])[1:] == (pytest.approx(0.1), pytest.approx(0.1), 3)
    assert over_seeds([0.3]) == (0.3, None, None, 1)


def test_where_images_add_nothing_a_difference_is_the_paired_t_test_of_the_means():
    rng = np.random.default_rng(0)
    theirs = rng.normal(size=(4, 40))
    ours = theirs + rng.normal(0.05, 0.02, size=(4, 1))
    found = paired_over_seeds(ours, theirs)
    wanted = stats.ttest_rel(ours.mean(1), theirs.mean(1))
    assert found.value == pytest.approx((ours - theirs).mean()) and found.seeds == 4
    assert found.p == pytest.approx(wanted.pvalue)
    bounds = wanted.confidence_interval()
    assert (found.low, found.high) == pytest.approx((bounds.low, bounds.high))


def test_what_the_images_favour_is_no_difference_however_well_the_seeds_agree():
    """All seeds see the same images: an accident of these stands in every seed's mean, and in no spread between them.
    A t-test over the seeds calls it in most of these samples."""
    rng, wrong, misses, seeds_alone = np.random.default_rng(0), 0, 0, 0
    for _ in range(200):
        accident = rng.normal(size=64)  # of mean zero over all images that there could be
        ours = accident + rng.normal(0, 0.02, size=(5, 1)) + rng.normal(0, 0.2, size=(5, 64))
        found = paired_over_seeds(ours, np.zeros(64))
        assert found.p is not None
        wrong += found.p <= 0.05
        misses += not found.low <= 0 <= found.high
        seeds_alone += stats.ttest_1samp(ours.mean(1), 0).pvalue <= 0.05
    assert wrong <= 18 and misses <= 18 and seeds_alone > 100  # 10 are right


def test_seeds_and_images_are_added_in_squares():
    rng = np.random.default_rng(1)
    each = rng.normal(size=24) + rng.normal(size=(3, 1))
    found = paired_over_seeds(each, np.zeros(24))
    halves = [stats.t.ppf(0.975, 2) * stats.sem(each.mean(1)), stats.t.ppf(0.975, 23) * stats.sem(each.mean(0))]
    assert (found.high - found.low) / 2 == pytest.approx(np.hypot(*halves))
    each = each - each.mean() + np.hypot(*halves)  # an interval that ends at zero
    assert paired_over_seeds(each, np.zeros(24)).p == pytest.approx(0.05, abs=1e-6)
    clustered = paired_over_seeds(np.repeat(each, 2, axis=1), np.zeros(48), np.repeat(np.arange(24), 2))
    assert clustered.p == pytest.approx(0.05, abs=1e-6)  # a prompt's second, equal image tells nothing new


def test_two_seeds_have_an_interval_and_no_test():
    found = paired_over_seeds([[1.0, 1.0], [2.0, 2.0]], [1.0, 1.0])
    assert found.p is None and found.seeds == 2
    assert (found.low, found.high) == pytest.approx((0.5 - 12.7062 * 0.5, 0.5 + 12.7062 * 0.5), abs=1e-4)


def test_seeds_without_spread():
    ones = np.ones((3, 5))
    assert paired_over_seeds(ones, ones) == (0.0, 0.0, 0.0, 1.0, 3, 0.0)
    assert paired_over_seeds(ones, 0 * ones).p is None  # copies of one fit


@pytest.mark.parametrize(
    "call",
    [
        lambda: over_seeds([]),
        lambda: over_seeds([1.0, np.nan]),
        lambda: paired_over_seeds([[1.0, 2.0]], [1.0, 2.0]),
        lambda: paired_over_seeds([[1.0, 2.0]] * 3, [[1.0, 2.0]] * 2),
        lambda: paired_over_seeds([[1.0, np.inf]] * 3, [1.0, 2.0]),
        lambda: paired_over_seeds([1.0, 2.0], [1.0, 2.0]),
    ],
)
def test_what_has_no_answer_is_refused(call):
    with pytest.raises(ValueError):
        call()


def test_written_only_where_there_are_several(two, tmp_path):
    write_tables(Table(two), tmp_path / "both")
    assert (tmp_path / "both" / "tables" / "seeds.csv").is_file()
    write_tables(Table(two[:2]), tmp_path / "one")
    assert not (tmp_path / "one" / "tables" / "seeds.csv").exists()


def test_the_summary_takes_seeds_together(two):
    text = summary(Table(two))
    assert "| point | seeds | gmacs | alignment |" in text and "t-interval" in text
    assert "| diffcr 20 % | 2 | 0.61 [0.483, 0.737] | 0.85 [0.215, 1.49] |" in text
    assert "| dense | 1 | 0.8 | 0.95 [0.94, 0.96] |" in text


@pytest.mark.parametrize(
    "other",
    [{"fingerprint": {"weights": "abc", "metric fid": "2"}}, {"dtype": "bfloat16"}, {"steps": 10}, {"n_cases": 12}],
)
def test_seeds_that_were_not_judged_alike_are_not_averaged(two, other):
    """A record of an older metric's version, and one of a newer, say."""
    records = [*two[:2], two[2].model_copy(update=other)]
    frame = pooled(records)
    fits = frame[frame["method"] == "diffcr"]
    assert fits["seeds"].tolist() == [1, 1] and fits["alignment"].tolist() == [0.8, 0.9]
    assert fits["group"].tolist() == [1, 2]
    text = summary(Table(records))
    assert "**Group 2**: " in text and "| point | group | seeds |" in text
    assert "| diffcr 20 % | 1 | 1 | 0.6 | 0.8 " in text and "| diffcr 20 % | 2 | 1 | 0.62 | 0.9 " in text
    with pytest.raises(NotComparable, match="not judged alike"):
        Table(records).compare_seeds("diffcr 20 %", "dense", "alignment")


def test_times_of_two_machines_have_no_mean(two, estimate):
    def on(one, device, seconds):
        estimates = one.estimates | {"latency_s": estimate(seconds, role="cost", better="lower", unit="s")}
        return one.model_copy(update={"environment": {"device": device}, "estimates": estimates})

    dense, first, second = two
    for machines, mean in ((("a", "a"), 3.0), (("a", "b"), None)):
        some = [dense, on(first, machines[0], 2.0), on(second, machines[1], 4.0)]
        row = pooled(some).set_index("method").loc["diffcr"]
        assert row["seeds"] == 2 and row["alignment"] == pytest.approx(0.85)
        assert row.get("latency_s") == mean


def test_failed_seeds_are_left_out(two, record):
    lost = record("diffcr", 0.2, settings={"ratio": 0.2, "seed": 2}, outcome="failed", reason="NaN")
    assert pooled([*two, lost]).set_index("method").loc["diffcr", "seeds"] == 2


def test_a_ratio_that_is_not_reached_is_told(two, record, estimate):
    estimates = {"gmacs": estimate(0.7, role="cost", better="lower")}
    pruned = record("depth-ft", 0.3, settings={"ratio": 0.3}, ratio_reached=0.25, estimates=estimates)
    near = record("diffcr-x", 0.3, settings={"ratio": 0.3}, ratio_reached=0.297, estimates=estimates)
    assert pooled([*two, pruned, near])["point"].tolist()[-2:] == ["depth-ft 30 % (reaches 25 %)", "diffcr-x 30 %"]


def test_seeds_are_paired_by_name_not_by_place(judged):
    rng = np.random.default_rng(0)
    values = {seed: rng.normal(5, 1, 32) for seed in (0, 1, 2)}

    def made(method, order, shift):
        return [judged(method, 0.2, values[s] + shift, settings={"ratio": 0.2, "seed": s}) for s in order]

    in_order = Table([*made("a", (0, 1, 2), 0.1), *made("b", (0, 1, 2), 0)])
    mixed = Table([*made("a", (0, 1, 2), 0.1), *made("b", (1, 0, 2), 0)])
    one, other = (table.compare_seeds("a 20 %", "b 20 %", "truth[judge]") for table in (in_order, mixed))
    assert one == other and one.high - one.low < 1e-6
    with pytest.raises(NotComparable, match="training seeds 0, 1, 2 and 'b 20 %' 0, 1: pairs need the same"):
        Table([*made("a", (0, 1, 2), 0.1), *made("b", (1, 0), 0)]).compare_seeds("a 20 %", "b 20 %", "truth[judge]")
