"""Comparisons and recommendations from records alone: bounds, conditions, workloads, probabilities, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from results.analysis.bounds import BadBound, bound, figure
from results.analysis.compare import compare
from results.analysis.compare_types import Comparison
from results.analysis.differences import NotComparable
from results.analysis.point_costs import cost_of
from results.analysis.points import Point
from results.analysis.recommend import candidates
from results.analysis.verdict_types import Verdict
from results.compare import OtherWorkloads, compare_runs
from results.recommend import apply_line, recommended
from results.run_folder import STORE, RunFolder
from results.store import Store
from results.tables.compare import document

N = 64
RNG = np.random.default_rng(0)
DENSE = RNG.gamma(9, 2 / 3, N)
NOISE = RNG.normal(0, 0.1, N)
NOISE -= NOISE.mean()
PAIRS = [1.0 + 0.01 * (k % 3) for k in range(12)]


@pytest.fixture
def run(tmp_path, judged, estimate):
    """Factory: a run folder of dense and these points, (method, ratio, values, fields)."""

    def make(name, *points, cases="c", **fields):
        with Store(tmp_path / name / STORE) as store:
            for method, ratio, values, *more in (("dense", None, DENSE), *points):
                ratio_s = 1 - (ratio or 0)
                estimates = {
                    "latency_ratio": estimate(
                        ratio_s, low=ratio_s, high=ratio_s, n=12, unit="method / dense", role="cost"
                    )
                } | fields.get("estimates", {})
                samples = {"latency_dense_s": PAIRS, "latency_method_s": [ratio_s * s for s in PAIRS]}
                about = {"samples": samples, "fingerprint": {"weights": "w", "cases": cases}} | (
                    more[0] if more else {}
                )
                store.put(judged(method, ratio, values, **about, estimates=estimates))
        return str(tmp_path / name)

    return make


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("truth>+2%", ("truth", ">", 2, "%", True)),
        ("alignment < -0.5 share", ("alignment", "<", -0.5, "share", True)),
        ("latency>5%", ("latency", ">", 5, "%", False)),
    ],
)
def test_bounds_as_written(text, parts):
    one = bound(text, "<>", "")
    assert (one.name, one.relation, one.value, one.unit, one.signed) == parts


@pytest.mark.parametrize("text", ["truth", "truth=2%", ">2%", "truth>two%", "truth>", "truth>>2%"])
def test_what_is_no_bound(text):
    with pytest.raises(BadBound, match="is no bound: expected a name, < or >, a number and its unit"):
        bound(text, "<>", "x")


def test_names_of_figures():
    known = ["truth[judge]", "fid[judge]", "fid[inception]", "latency_ratio"]
    assert figure("truth", known) == "truth[judge]" and figure("latency", known) == "latency_ratio"
    with pytest.raises(BadBound, match="stands for several metrics: fid.judge., fid.inception."):
        figure("fid", known)
    with pytest.raises(BadBound, match="no metric or cost 'thruth' is there: did you mean 'truth'"):
        figure("thruth", known)


def test_two_points_of_a_run(run):
    folder = run("r", ("a", 0.2, DENSE + 0.5 + NOISE), ("b", 0.2, DENSE + NOISE))
    found = compare_runs(f"{folder}:a@0.2", f"{folder}:b@20%")
    (point,) = found.points
    (metric,) = point.metrics
    assert metric.metric == "truth[judge]" and metric.difference == pytest.approx(0.5)
    assert metric.low == pytest.approx(0.5) and metric.p is not None and metric.p < 0.001
    ratios = {one.cost: one.ratio for one in point.costs}
    assert ratios == {"gmacs": 1, "latency_ratio": pytest.approx(1)}
    assert found == compare_runs(f"{folder}:a 20 %", f"{folder}:b 20 %").model_copy(update={"a": found.a, "b": found.b})
    assert Comparison.model_validate_json(found.model_dump_json()) == found


def test_two_runs_are_compared_point_by_point(run):
    old = run("old", ("a", 0.1, DENSE), ("a", 0.2, DENSE), ("gone", 0.1, DENSE))
    new = run("new", ("a", 0.1, DENSE + 0.5 + NOISE), ("a", 0.2, DENSE))
    found = compare_runs(new, old)
    assert [(p.a, p.metrics[0].difference) for p in found.points] == [
        ("dense", 0), ("a 10 %", pytest.approx(0.5)), ("a 20 %", 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("loss", "noise", "state"),
    [(0.3, 0.1, "holds"), (0.0, 0.1, "excluded"), (0.08, 1.0, "open"), (0.2, 1.0, "open")],
)
def test_a_condition_fails_unless_it_is_excluded(run, loss, noise, state):
    """2 % of dense's mean is about 0.12."""
    folder = run("r", ("a", 0.2, DENSE + loss + noise * 10 * NOISE))
    found = compare_runs(f"{folder}:a", f"{folder}:dense", fail_if=["truth>+2%"])
    (one,) = found.points[0].conditions
    assert one.state == state and one.fails is (state != "excluded") and found.failed is one.fails
    assert "truth>+2%" in document(found)


def test_conditions_on_costs(run):
    folder = run("r", ("a", 0.1, DENSE), ("b", 0.2, DENSE))
    sides = f"{folder}:a", f"{folder}:b"
    for text, fails in (("gmacs>+12%", True), ("gmacs>+13%", False), ("latency>+12%", True), ("latency>+13%", False)):
        assert compare_runs(*sides, fail_if=[text]).failed is fails, text


def _by_blocks(rng, judged, estimate, median=1.0):
    """A record of 48 pairs in blocks of eight that differ from each other more than the pairs within them."""
    ratios = median * np.exp(np.repeat(rng.normal(0, 0.02, 6), 8) + rng.normal(0, 0.004, 48))
    value = estimate(
        float(np.median(np.median(ratios.reshape(6, 8), axis=1))), n=48, unit="method / dense", role="cost"
    )
    samples = {"latency_dense_s": [1.0] * 48, "latency_method_s": ratios.tolist()}
    return judged("a", 0.2, DENSE[:8], estimates={"latency_ratio": value}, samples=samples)


def test_latencies_of_equal_work_differ_as_their_blocks_do(judged, estimate):
    """Blocks of pairs are what is independent: an interval from the pairs alone misses in every second of these."""
    rng, misses = np.random.default_rng(0), 0
    for _ in range(150):
        pair = [_by_blocks(rng, judged, estimate) for _ in range(2)]
        found = compare(*pair, ("A", "B"), lambda *_: None, lambda *_: None)
        (latency,) = (one for one in found.costs if one.cost == "latency_ratio")
        misses += not latency.low <= 1 <= latency.high
    assert misses <= 22  # 7.5 are right


def test_latencies_under_other_settings_of_the_task_are_compared_in_seconds(judged, estimate):
    """A strategy that crops is three times as fast as one that does not, dense though both be."""

    def dense(strategy, seconds):
        found = {
            "latency_ratio": estimate(1.0, n=12, unit="method / dense", role="cost"),
            "latency_s": estimate(seconds, n=12, unit="s", role="cost"),
            "gmacs": estimate(seconds, unit="GMACs", role="cost"),
        }
        samples = {"latency_dense_s": [s * seconds for s in PAIRS], "latency_method_s": [s * seconds for s in PAIRS]}
        task = {"strategy": strategy}
        return judged("dense", None, DENSE, estimates=found, samples=samples, task_settings=task)

    crop, whole = dense("crop", 0.5), dense("whole", 1.5)
    limits = [bound("latency>-60%", "<>", ""), bound("latency>-70%", "<>", "")]
    found = compare(crop, whole, ("a", "b"), lambda *_: None, lambda *_: None, limits)
    latency = next(one for one in found.costs if one.cost.startswith("latency"))
    assert (latency.cost, latency.a, latency.b) == ("latency_s", 0.5, 1.5)
    assert latency.ratio == pytest.approx(1 / 3) and latency.low <= 1 / 3 <= latency.high < 0.35
    assert [one.fails for one in found.conditions] == [False, True]
    cost = cost_of(Point("crop", (crop,)), Point("whole", (whole,)))
    assert cost.latency == pytest.approx(cost.gmacs) == pytest.approx(1 / 3)


def test_a_distance_between_few_sets_passes_no_gate(judged, estimate):
    rng = np.random.default_rng(1)

    def record(method, n):
        fid = estimate(1.0, role="quality", better="lower", n=n, set_distance="frechet x")
        return judged(method, None, rng.gamma(9, 2 / 3, n), estimates={"fid[x]": fid})

    for n, said in ((64, "which fewer than 1,000 images do not rank"), (1000, "")):
        features = rng.normal(size=(n, 4))
        a, b = record("a", n), record("b", n)
        limit = [bound("fid>+50%", "<>", "")]
        (one,) = compare(a, b, ("a", "b"), lambda *_, x=features: x, lambda *_, x=features: x + 1, limit).conditions
        assert one.fails is bool(said) and said in one.why


def test_few_images_cannot_pass_a_gate(run, judged):
    with Store(f"{run('r')}/{STORE}") as store:
        store.put(judged("few", 0.2, DENSE[:7], fingerprint={"weights": "w", "cases": "c"}))
    folder = run("r")
    (one,) = compare_runs(f"{folder}:few", f"{folder}:dense", force=True, fail_if=["truth>+2%"]).points[0].conditions
    assert one.state == "open" and one.fails and "fewer than 8 images" in one.why


def test_other_workloads_are_refused_with_what_differs(run):
    one, other = run("one", ("a", 0.2, DENSE)), run("other", ("a", 0.2, DENSE), cases="others")
    with pytest.raises(OtherWorkloads) as refused:
        compare_runs(one, other)
    assert refused.value.differing == ("cases: c in A, others in B",)
    forced = compare_runs(one, other, force=True)
    assert forced.differing == refused.value.differing
    assert "**The workloads differ" in document(forced) and "- cases: c in A, others in B" in document(forced)


def test_metrics_in_one_run_alone_are_named(run, estimate):
    more = {"kid[judge]": estimate(0.1, role="quality", better="lower")}
    one, other = run("one", ("a", 0.2, DENSE), estimates=more), run("other", ("a", 0.2, DENSE))
    point = compare_runs(one, other).points[1]
    assert point.in_one_alone == ("kid[judge] (A)",) and "in one alone: kid[judge] (A)" in document(
        compare_runs(one, other)
    )


def test_what_cannot_be_compared_is_one_line(run):
    one, other = run("one", ("a", 0.2, DENSE)), run("other", ("b", 0.2, DENSE))
    with pytest.raises(NotComparable, match="no point of the name 'c'; there are: dense, a 20 %"):
        compare_runs(f"{one}:c", f"{one}:a")
    with pytest.raises(NotComparable, match="give two runs or two points"):
        compare_runs(one, f"{one}:a")
    with pytest.raises(BadBound, match="'truth>2' has no unit: expected % or 'feature distance'"):
        compare_runs(one, other, fail_if=["truth>2"])
    with pytest.raises(BadBound, match="'gmacs>2' has no unit: a cost is bounded in %"):
        compare_runs(one, other, fail_if=["gmacs>2"])


def test_the_schemas_are_published():
    folder = Path(__file__).resolve().parents[2] / "docs" / "schemas"
    for name, model in (("compare", Comparison), ("verdict", Verdict)):
        kept, now = (folder / f"{name}.json").read_text(), json.dumps(model.model_json_schema())
        assert _read(kept) == _read(now), "python docs/draw.py writes the schemas"


def _read(schema):
    """Enumerations in one order: which one a union keeps depends on what was imported first."""
    return json.loads(schema, object_hook=lambda found: found | {"enum": sorted(found.get("enum", ()))})


# -- recommendations ---------------------------------------------------------------------------------------------


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
        (found,), _notes = candidates({"a": _by_blocks(rng, judged, estimate)}, dense, [limit], [])
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


def test_features_are_read_from_each_run_though_keys_are_the_same(tmp_path, judged, estimate):
    """The same point before and after an upgrade of a library, which no key holds."""
    rng = np.random.default_rng(3)
    reference, folders = rng.normal(size=(64, 4)), []
    for name, shift in (("before", 0.0), ("after", 3.0)):
        with RunFolder.grow(tmp_path / name, {}) as folder:
            x = np.random.default_rng(4).normal(size=(N, 4)) + shift
            fid = estimate(shift, low=shift, high=shift, unit="d", role="quality", better="lower",
                           set_distance="frechet judge")  # fmt: skip
            folder.put(
                judged(
                    "m", 0.2, DENSE, estimates={"fid[judge]": fid}, key="the-same-key", sample_key="s",
                    fingerprint={"weights": "w"}, features=folder.save_features({"judge": x}, "s"),
                    references=folder.save_references({"judge": reference}),
                )
            )  # fmt: skip
        folders.append(str(tmp_path / name))
    (point,) = compare_runs(folders[1], folders[0]).points
    (fid,) = (one for one in point.metrics if one.metric == "fid[judge]")
    assert fid.difference > 10
