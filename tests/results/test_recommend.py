"""Recommendations from records alone: what meets a budget, with which probability, and what says nothing."""

import numpy as np
import pytest
from compared import DENSE, NOISE, PAIRS, N, by_blocks, made  # noqa: F401 (a fixture)

from results.analysis.bounds import BadBound, bound
from results.analysis.differences import NotComparable
from results.analysis.recommend import candidates
from results.recommend import apply_line, recommended
from results.run_folder import STORE
from results.store import Store


def test_what_meets_a_budget_and_ties(run):
    folder = run("r", ("a", 0.3, DENSE + 0.2 * NOISE), ("b", 0.3, DENSE - 0.1 * NOISE), ("c", 0.3, DENSE + 1),
                 ("d", 0.1, DENSE))  # fmt: skip
    (found,) = recommended([folder], ["latency=0.8"], ["truth=-1%"])
    assert {one.name for one in found.meeting} == {"a 30 %", "b 30 %"}
    assert all(one.probability > 0.95 for one in found.meeting) and found.tied == (found.meeting[1].name,)


def test_the_probability_of_a_latency_is_that_of_its_blocks(judged, estimate):
    """A limit at the true latency is met in half of the runs: whatever one of them says of it, it cannot be sure."""
    rng, dense = np.random.default_rng(0), judged("dense", None, DENSE[:8])
    limit = bound("latency=1", "=", "latency=0.8")
    sure = 0
    for _ in range(150):
        (found,), _notes = candidates({"a": by_blocks(rng, judged, estimate)}, dense, [limit], [])
        sure += not 0.05 <= found.probability <= 0.95
    assert sure <= 25  # from the pairs alone it is more than half


def test_the_probability_is_that_of_the_data(run):
    """At the limit itself, one half; two thirds of a standard error inside, three quarters."""
    noise = 10 * NOISE
    error = noise.std(ddof=1) / N**0.5
    least = -0.01 * DENSE.mean()
    for spare, share in ((0.0, 0.5), (0.674 * error, 0.75), (-0.674 * error, 0.25)):
        folder = run(f"r{share}", ("a", 0.3, DENSE - least - spare + noise), ("sure", 0.3, DENSE))
        (found,) = recommended([folder], [], ["truth=-1%"])
        probability = {one.name: one.probability for one in found.meeting}
        assert probability["sure 30 %"] == 1
        assert probability.get("a 30 %", share) == pytest.approx(share, abs=0.05)


def test_the_best_of_those_that_surely_meet_it_is_put_to_use(run):
    folder = run("r", ("bad", 0.3, DENSE + 1 + NOISE), ("good", 0.3, DENSE + NOISE), ("worst", 0.3, DENSE + 2 + NOISE))
    (found,) = recommended([folder], ["gmacs=0.8"], [])
    assert [one.name for one in found.meeting] == ["good 30 %", "bad 30 %", "worst 30 %"]
    assert not found.tied and not found.better
    assert any("the first of 3 points, chosen on the images" in line for line in found.notes)


def test_one_that_is_surer_and_worse_is_said_to_be(run):
    """By latency, of which images say nothing: two of good's six blocks are beyond the limit."""
    timed = [(0.7 if pair < 8 else 0.9) * seconds for pair, seconds in enumerate(PAIRS)]
    samples = {"samples": {"latency_dense_s": PAIRS, "latency_method_s": timed}}
    folder = run("r", ("bad", 0.3, DENSE + 1 + NOISE), ("good", 0.3, DENSE + NOISE, samples))
    (found,) = recommended([folder], ["latency=0.8"], [])
    assert [one.name for one in found.meeting] == ["bad 30 %", "good 30 %"]
    assert 0.5 < found.meeting[1].probability < found.meeting[0].probability < 1
    assert found.better == ("good 30 %",) and not found.tied


def test_counts_that_vary_with_the_image_are_no_exact_figure(judged, estimate):
    """Half of such runs meet a limit at the true mean."""
    dense = judged("dense", None, DENSE)
    dense = dense.model_copy(update={"estimates": {**dense.estimates, "gmacs": estimate(1.0, role="cost")}})
    spent = np.random.default_rng(0).normal(0.8, 0.15, len(DENSE))
    spent += 0.799 - spent.mean()
    gmacs = estimate(float(spent.mean()), low=0.76, high=0.84, values=tuple(spent), role="cost")
    own = judged("adaptive", 0.2, DENSE)
    own = own.model_copy(update={"estimates": {**own.estimates, "gmacs": gmacs}})
    ((found,), _) = candidates({"a": own}, dense, [bound("gmacs=0.8", "=", "x")], [])
    assert 0.45 < found.probability < 0.65


def test_two_timed_pairs_say_nothing(judged, estimate):
    dense = judged("dense", None, DENSE[:8])
    one = by_blocks(np.random.default_rng(0), judged, estimate)
    one = one.model_copy(update={"samples": {name: values[:2] for name, values in one.samples.items()}})
    found, left_out = candidates({"a": one}, dense, [bound("latency=2", "=", "x")], [])
    assert not found and "of 2 timed pairs; 8 are the fewest" in left_out[0]


def test_runs_of_one_workload_are_taken_together(run):
    folders = [run("one", ("a", 0.3, DENSE + NOISE)), run("two", ("b", 0.4, DENSE + NOISE))]
    (found,) = recommended(folders, ["gmacs=75%"], [])
    assert {one.name for one in found.meeting} == {"a 30 %", "b 40 %"}
    other = run("three", ("b", 0.4, DENSE), cases="others")
    with pytest.raises(NotComparable, match="different workloads: cases: others in A, c in B"):
        recommended([*folders, other], ["gmacs=75%"], [])


def test_nothing_meets_it_and_how_close_it_comes(run):
    folder = run("r", ("a", 0.3, DENSE + 0.5 + NOISE), ("b", 0.1, DENSE))
    close = r"closest: a 30 %: latency_ratio 0.7 \(limit 0.6\), truth.judge. -8.* % \(limit -1.00 %\)"
    with pytest.raises(NotComparable, match=rf"nothing meets latency=0.6 and truth=-1%; {close}"):
        recommended([folder], ["latency=0.6"], ["truth=-1%"])


@pytest.mark.parametrize(
    ("most", "least", "said"),
    [
        ([], [], "no budget: give --max"),
        (["latency=fast"], [], "is no bound"),
        (["truth=0.8"], [], "expected a cost"),
        ([], ["latency=0.8"], "expected a metric"),
        ([], ["truth=1"], "has no unit"),
        ([], ["truth=1%"], "has no sign"),
        (["latency=-10%"], [], "expected a share of dense"),
        ([], ["nothing=-1%"], "no metric or cost 'nothing'"),
    ],
)
def test_budgets_that_say_nothing(run, most, least, said):
    with pytest.raises((NotComparable, BadBound), match=said):
        recommended([run("r", ("a", 0.3, DENSE))], most, least)


def test_one_image_gives_no_probability_worth_the_name(tmp_path, judged):
    with Store(tmp_path / STORE) as store:
        store.put(judged("dense", None, DENSE[:1]))
        store.put(judged("m", 0.2, DENSE[:1]))
    (found,) = recommended([tmp_path], [], ["truth=-1%"])
    assert found.notes == ("n = 1 is fewer than 8 images: the probabilities say little",)


def test_the_line_that_puts_settings_to_use(record):
    plain = record("tome", 0.3, settings={"ratio": 0.3, "around": "mlp"})
    assert apply_line(plain) == "harness.apply(pipeline, 'tome', ratio=0.3, around='mlp')"
    composed = record("a+b", 0.3, settings={"a.ratio": 0.3})
    assert apply_line(composed) == "harness.apply(pipeline, 'a+b', **{'a.ratio': 0.3})"
