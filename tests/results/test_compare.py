"""Comparisons from records alone: bounds, conditions, workloads, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from compared import DENSE, NOISE, PAIRS, N, by_blocks, made  # noqa: F401 (a fixture)

from results.analysis.bounds import BadBound, bound, figure
from results.analysis.compare import compare
from results.analysis.compare_types import Comparison
from results.analysis.differences import NotComparable
from results.analysis.point_costs import cost_of
from results.analysis.points import Point
from results.analysis.verdict_types import Verdict
from results.compare import OtherWorkloads, compare_runs
from results.run_folder import STORE, RunFolder
from results.store import Store
from results.tables.compare import document


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


def test_latencies_of_equal_work_differ_as_their_blocks_do(judged, estimate):
    """Blocks of pairs are what is independent: an interval from the pairs alone misses in every second of these."""
    rng, misses = np.random.default_rng(0), 0
    for _ in range(150):
        pair = [by_blocks(rng, judged, estimate) for _ in range(2)]
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


def test_a_point_that_breaks_passes_no_gate(run):
    old = run("old", ("a", 0.2, DENSE), ("b", 0.2, DENSE))
    new = run("new", ("a", 0.2, DENSE - NOISE), ("b", 0.2, DENSE))
    with Store(Path(new) / STORE) as store:
        record = next(one for one in store.records() if one.method == "b")
    with Store(Path(new) / STORE) as store:
        store._db.execute("DELETE FROM record WHERE key = ?", (record.key,))
        store.put(record.model_copy(update={"outcome": "failed", "reason": "RuntimeError: boom", "estimates": {}}))
    found = compare_runs(new, old, fail_if=["truth>+90%"])
    assert found.failed and found.broken == ("b 20 %",)
    assert found.not_compared == ("b 20 %: figures in B alone (failed in A: RuntimeError: boom)",)
    text = document(found)
    assert "b 20 %: figures in B alone" in text and "**fails**: b 20 % ran in B and does not in A" in text
    assert not compare_runs(new, old).failed  # no bound was given
    assert not compare_runs(old, new, fail_if=["truth>+90%"]).failed  # it was mended
