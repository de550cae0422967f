"""What stands for a point: one record per training seed, paired seed by seed, and the mean of their costs."""

import numpy as np
import pytest

from results.analysis.differences import NotComparable, seed_difference
from results.analysis.paired import paired
from results.analysis.point_costs import cost_of
from results.analysis.points import Pair, Point, points_of
from results.analysis.skewness import skew_adjusted_p
from results.analysis.tolerances import clear_of
from results.analysis.verdict import judge
from results.record import CaseFacts, newest

N = 64
METRIC = "truth[judge]"
IMAGES = np.random.default_rng(0).gamma(9, 2 / 3, N)


def seeds(judged, method, means, **fields):
    """A point whose fits differ in their means."""
    rng = np.random.default_rng(len(method))
    return Point(
        method,
        tuple(
            judged(method, 0.2, IMAGES + mean + rng.normal(0, 0.1, N), settings={"ratio": 0.2, "seed": seed},
                   key=f"{method:_<8} {seed}", **fields)
            for seed, mean in enumerate(means)
        ),
    )  # fmt: skip


def test_one_training_of_a_rival_is_compared_at_its_seed_alone(judged):
    """It does not stand for its other trainings, which nobody has seen."""
    three, one = seeds(judged, "a", (0.0, 1.0, -1.0)), seeds(judged, "bb", (0.2,))
    pair = Pair.of(three, one, METRIC)
    assert pair.method.shape == (1, N) and np.array_equal(pair.method[0], three.first.estimates[METRIC].values)
    with pytest.raises(NotComparable, match="3 seeds against one training of bb .*compare at that seed"):
        seed_difference(three.records, one.records, METRIC)
    dense = Point("dense", (judged("dense", None, IMAGES),))
    assert Pair.of(three, dense, METRIC).method.shape == (3, N)  # which is not trained
    assert Pair.of(three, seeds(judged, "ccc", (0.1, 0.3, 0.2, 0.5)), METRIC).method.shape == (3, N)


def test_labels_of_clusters_with_gaps_are_no_clusters_of_their_own(judged):
    """Four images of each of 16 prompts, one after the other, with skewed differences."""
    cases = tuple(CaseFacts(prompt=f"prompt {i // 4}", seed=i) for i in range(N))
    each = np.repeat(np.random.default_rng(3).exponential(1, 16) - 0.6, 4)
    method, dense = judged("a", 0.2, IMAGES + each, cases=cases), judged("dense", None, IMAGES, cases=cases)
    pair = Pair.of(Point("a", (method,)), Point("dense", (dense,)), METRIC)
    sums = (pair.method - pair.comparator).reshape(16, 4).sum(1)
    flips = paired(pair.method[0], pair.comparator[0], pair.clusters).p
    assert pair.difference(pair.method, pair.comparator).p == max(flips, skew_adjusted_p(sums))


@pytest.mark.parametrize("devices", [("cuda", "cuda:0"), ("cpu", "cpu")])
def test_two_records_of_one_point_are_no_two_seeds(judged, devices):
    """Of an older code, and of the same device by another name."""
    old, new = (
        judged("tome", 0.2, IMAGES + shift, device=device, started=f"2025-01-0{day}T00:00:00Z", key=f"day {day:05}")
        for day, (shift, device) in enumerate(zip((3.5, 0.5), devices, strict=True), start=1)
    )
    assert newest([old, new]) == [new]
    (point,) = points_of([old, new])
    assert point.records == (new,)


def test_the_cost_of_several_seeds_is_their_mean(judged, estimate):
    dense = judged("dense", None, IMAGES)
    dense = dense.model_copy(update={"estimates": {**dense.estimates, "gmacs": estimate(1.0, role="cost")}})
    fits = []
    for record, gmacs, ratio in zip(
        seeds(judged, "a", (0, 0, 0)).records, (0.7, 0.8, 0.9), (0.95, 1.04, 0.97), strict=True
    ):
        figures = {"gmacs": estimate(gmacs, role="cost")}
        figures["latency_ratio"] = estimate(
            ratio, low=ratio - 0.01, high=ratio + 0.01, n=12, unit="method / dense", role="cost"
        )
        fits.append(record.model_copy(update={"estimates": {**record.estimates, **figures}}))
    cost = cost_of(Point("a", tuple(fits)), Point("dense", (dense,)))
    assert cost.gmacs == pytest.approx(0.8) and cost.latency == pytest.approx(np.mean([0.95, 1.04, 0.97]))
    assert cost.latency_low < 0.93 and cost.latency_high > 1 and cost.latency_word == "not distinguishable"
    assert cost_of(Point("a", tuple(fits[:1])), Point("dense", (dense,))).latency_word == "faster"


def test_a_share_is_of_the_comparators_own_mean(judged):
    """Two strategies of a task, whose denses differ twofold: percentages are of each one's own."""
    records = []
    for strategy, scale in (("lazy", 1.0), ("crop", 2.0)):
        for method, ratio, factor in (("dense", None, 1.0), ("tome", 0.2, 1.05)):
            noise = np.random.default_rng(int(scale)).normal(0, 0.05, N)
            records.append(
                judged(method, ratio, scale * (factor * IMAGES + noise * (method != "dense")),
                       task_settings={"strategy": strategy}, key=f"{method} {strategy}")
            )  # fmt: skip
    section = judge(records).sections[0]
    found = [one for block in section.blocks for one in block.to_dense if one.method.startswith("tome")]
    assert [one.difference * one.share for one in found] == pytest.approx([0.05, 0.05], abs=0.005)
    assert found[1].difference == pytest.approx(2 * found[0].difference, rel=0.1)
    assert section.resolution[0] == pytest.approx(min(one.detectable * one.share for one in found))


def test_a_clip_score_passes_where_its_interval_does():
    dense = 31.0
    assert clear_of(-0.05, 0.1, dense) and clear_of(-0.3, -0.1, dense) is False
    assert clear_of(-0.1, 0.05, dense) is None and clear_of(0.1, 0.3, dense)  # better is no loss
