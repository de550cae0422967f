"""Budgets: the strength that meets one is found, on cases that the evaluation does not see, or it is said how close it
came."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness import api, budgets, config, cost, ladders, matches, plan, registry, search, versions
from harness.errors import UserError
from harness.method import Method
from harness.metric import Sample, images_to_uint8
from harness.models import Model, load
from harness.sweep import MethodSpec
from harness.task import Task
from harness.zoo.shapes import scene
from results import open_run
from results.tables.formatting import setup


def found(monkeypatch: pytest.MonkeyPatch, small: dict[str, Any], wanted: list[float], costs: Any) -> Any:
    """Matches of ToMe where its cost is a known function of the ratio, and the ratios that were measured."""
    measured: list[float] = []

    def relative(_on: cost.Subject, method: Method, *_: object) -> float:
        measured.append(method.ratio or 0.0)
        return float(costs(method.ratio))

    monkeypatch.setattr(budgets, "relative_cost", relative)
    sweep = config.build({**small, "methods": "tome", "match": "gmacs", "budgets": wanted})
    return budgets._search(sweep, plan.load_model(sweep), [], lambda _found: None, lambda _line: None), measured


@pytest.mark.parametrize("cost", [lambda r: 1 - r, lambda r: (1 - r) ** 3, lambda r: 1.2 - 0.7 * r])
def test_a_budget_is_met_within_one_percent(monkeypatch: pytest.MonkeyPatch, small: dict[str, Any], cost: Any) -> None:
    met, measured = found(monkeypatch, small, [0.9, 0.8, 0.7], cost)
    for one, budget in zip(met, (0.9, 0.8, 0.7), strict=True):
        assert one.met and cost(one.strength) == pytest.approx(budget, rel=0.01) and one.cost == cost(one.strength)
    assert len(measured) == len(set(measured)) == sum(one.tried for one in met) <= 15  # costs are shared


def test_a_budget_out_of_reach_says_how_close_it_came(monkeypatch: pytest.MonkeyPatch, small: dict[str, Any]) -> None:
    (near, far), _ = found(monkeypatch, small, [0.3, 0.2], lambda r: 1 - 0.95 * r)  # at most 0.75: 0.2875
    assert near.met and near.strength is not None
    assert not far.met and far.strength is None and far.cost == pytest.approx(0.2875, abs=1e-3)
    assert "0.288 of dense is as close as it came to a budget of 0.2: left out" in str(far)


@pytest.mark.parametrize("leap", [0.01, 0.2, 0.74])
def test_costs_in_leaps_lead_to_the_level_that_comes_closest(
    monkeypatch: pytest.MonkeyPatch, small: dict[str, Any], leap: float
) -> None:
    def cost_of(ratio: float) -> float:  # caches compute or reuse whole steps
        return 1.0 if ratio < leap else 0.8125 if ratio < leap + 0.0005 else 0.75  # of 0.000375, the next rung, too

    (closest,), measured = found(monkeypatch, small, [0.8], cost_of)
    assert closest.cost == 0.8125 and not closest.met and cost_of(closest.strength) == 0.8125
    assert len(measured) <= 18


def test_strengths_that_a_model_has_no_layers_for_end_the_search_below_them(
    monkeypatch: pytest.MonkeyPatch, small: dict[str, Any]
) -> None:
    def cost_of(ratio: float) -> float:
        if ratio > 0.45:
            raise UserError("0.45 is the most")
        return 1 - ratio / 2

    (met, far), measured = found(monkeypatch, small, [0.8, 0.6], cost_of)
    assert met.met and met.strength == pytest.approx(0.4, abs=0.02)
    assert not far.met and far.cost == pytest.approx(0.775, abs=0.01) and max(measured) > 0.45
    ((none,), _) = found(monkeypatch, small, [0.8], lambda _ratio: cost_of(1.0))  # nothing works
    assert none.strength is None and none.reason == "0.45 is the most"


def test_a_matched_run_from_end_to_end(small: dict[str, Any], tmp_path: Path) -> None:
    small = {k: v for k, v in small.items() if k != "ratios"}
    methods = ["tome", {"name": "tome", "random": False}]  # at one strength, told apart by a setting alone
    out, sweep = tmp_path / "run", {**small, "methods": methods, "match": "gmacs", "budgets": [0.8]}
    table = api.run(out=out, **sweep)
    kept, other = json.loads((out / "matched.json").read_text())
    assert kept["cost"] == pytest.approx(0.8, rel=0.01) and other["strength"] == kept["strength"]
    dense, tome, first = table.records
    assert tome.settings["ratio"] == kept["strength"] and tome.settings["random"] and not first.settings["random"]
    reached = tome.estimates["gmacs"].value / dense.estimates["gmacs"].value
    assert reached == pytest.approx(0.8, rel=0.02)
    rows = pd.read_csv(out / "tables" / "matched.csv")
    assert rows["gmacs"].iloc[0] == tome.estimates["gmacs"].value and rows["met"].iloc[0]
    assert list(rows["psnr_to_dense"]) == [one.estimates["psnr_to_dense"].value for one in (tome, first)]
    text = (out / "tables" / "matched.md").read_text()
    assert "## gmacs 0.8" in text and '| tome `{"random":false}` | ratio' in text
    stamp = (out / "matched.json").stat().st_mtime_ns
    again = api.run(out=out, **sweep)
    assert [r.started for r in again.records] == [r.started for r in table.records]
    assert (out / "matched.json").stat().st_mtime_ns == stamp


def test_settings_of_the_task_are_matched_one_by_one_in_one_folder(
    monkeypatch: pytest.MonkeyPatch, lazy_folder: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(budgets, "relative_cost", lambda _on, method, *_: 1 - 0.96 * (method.ratio or 0.0))
    values = {"methods": "tome", "match": "gmacs", "model": str(lazy_folder), "task": "inpainting"}
    values |= {"cases": 2, "steps": 2, "rounds": 2, "metrics": ["paired"], "out": tmp_path / "run"}
    for area, budget in ((0.06, 0.8), (0.25, 0.8), (0.25, 0.27)):
        api.run(**values, budgets=[budget], task_settings={"strategy": "whole", "mask_area": area})
    rows = pd.read_csv(tmp_path / "run" / "tables" / "matched.csv")
    areas = [json.loads(one)["mask_area"] for one in rows["task"]]
    assert sorted(zip(areas, rows["budget"], strict=True)) == [(0.06, 0.8), (0.25, 0.27), (0.25, 0.8)]
    assert len(rows) == 3 and rows["gmacs"].notna().all()
    text = (tmp_path / "run" / "tables" / "matched.md").read_text()
    assert text.count("| tome | ratio") == 3 and text.count("| dense `") == 2
    (section,) = [one for one in open_run(tmp_path / "run").verdict().sections if "mask_area 0.25" in one.setup]
    assert {block.title for block in section.blocks} == {"gmacs 0.8", "gmacs 0.27"}
    assert any("comes closest to gmacs 0.27 and does not meet it: 0.28" in note for note in section.notes)


def test_what_an_interrupted_search_found_is_not_searched_again(
    monkeypatch: pytest.MonkeyPatch, small: dict[str, Any], tmp_path: Path
) -> None:
    searched: list[str] = []

    def relative(_on: cost.Subject, method: Method, *_: object) -> float:
        if method.name == "random" and "random" not in searched:
            searched.append("random")
            raise KeyboardInterrupt
        searched.append(method.name)
        return 1 - (method.ratio or 0.0)

    monkeypatch.setattr(budgets, "relative_cost", relative)
    sweep = config.build({**small, "methods": "tome,random", "match": "gmacs", "budgets": [0.9, 0.8]})
    with pytest.raises(KeyboardInterrupt):
        budgets.resolved(sweep, tmp_path, plan.load_model(sweep))
    searched[:] = ["random"]
    _, found = budgets.resolved(sweep, tmp_path, plan.load_model(sweep))
    assert "tome" not in searched
    assert [(one.method, one.budget) for one in found] == [(m, b) for m in ("tome", "random") for b in (0.9, 0.8)]


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods whose cost was measured, which is a known function of the ratio."""
    names: list[str] = []

    def relative(_on: cost.Subject, method: Method, *_: object) -> float:
        names.append(method.name)
        return 1 - (method.ratio or 0.0)

    monkeypatch.setattr(budgets, "relative_cost", relative)
    return names


def _resolve(small: dict[str, Any], folder: Path, **values: Any) -> list[matches.Match]:
    sweep = config.build({**small, "methods": "tome,random", "match": "gmacs", "budgets": [0.8], **values})
    return budgets.resolved(sweep, folder, plan.load_model(sweep))[1]


def _kept(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "matched.json").read_text())  # type: ignore[no-any-return]


def test_a_changed_method_is_searched_again_alone(
    monkeypatch: pytest.MonkeyPatch, small: dict[str, Any], searched: list[str], tmp_path: Path
) -> None:
    _resolve(small, tmp_path)
    searched.clear()
    tome, own = registry.methods.get("tome"), versions.of_source
    monkeypatch.setattr(versions, "of_source", lambda cls: "changed" if cls is tome else own(cls))
    _resolve(small, tmp_path)
    assert set(searched) == {"tome"}
    assert sorted(one["method"] for one in _kept(tmp_path)) == ["random", "tome"]  # the old answer is gone


def test_other_machines_and_threads_are_searched_again_where_seconds_count(
    monkeypatch: pytest.MonkeyPatch, small: dict[str, Any], searched: list[str], tmp_path: Path
) -> None:
    for axis in ("gmacs", "latency"):
        _resolve(small, tmp_path / axis, match=axis)
    describe = plan.environment.describe
    for fact in ("threads", "device"):
        with monkeypatch.context() as patch:
            patch.setattr(plan.environment, "describe", lambda device, fact=fact: describe(device) | {fact: "other"})
            searched.clear()
            _resolve(small, tmp_path / "gmacs", match="gmacs")
            assert not searched  # products are counted alike everywhere
            _resolve(small, tmp_path / "latency", match="latency")
            assert set(searched) == {"tome", "random"}
            assert len(_kept(tmp_path / "latency")) == 2


@pytest.mark.parametrize("change", [{"steps": 3}, {"guidance": 1.5}, {"model": "shapes"}])
def test_another_workload_is_searched_again(
    small: dict[str, Any], searched: list[str], tmp_path: Path, change: dict[str, Any]
) -> None:
    _resolve(small, tmp_path)
    searched.clear()
    _resolve({**small, **change}, tmp_path)
    assert set(searched) == {"tome", "random"}
    assert len(_kept(tmp_path)) == 2


def test_more_images_leave_the_answer_as_it_is(small: dict[str, Any], searched: list[str], tmp_path: Path) -> None:
    _resolve(small, tmp_path, cases=4)
    searched.clear()
    _resolve(small, tmp_path, cases=6, rounds=3, batch=3)
    assert not searched


def test_a_refit_is_searched_again(
    monkeypatch: pytest.MonkeyPatch, small: dict[str, Any], searched: list[str], tmp_path: Path
) -> None:
    fitted = {**small, "model": "shapes"}
    _resolve(fitted, tmp_path, methods="uniform,tome")
    searched.clear()
    _resolve(fitted, tmp_path, methods="uniform,tome")
    assert not searched
    own = Model.adapter_digest
    monkeypatch.setattr(Model, "adapter_digest", lambda self, name: own(self, name) + "anew")
    _resolve(fitted, tmp_path, methods="uniform,tome")
    assert set(searched) == {"uniform"}
    monkeypatch.undo()
    monkeypatch.setattr(budgets, "relative_cost", lambda _on, method, *_: searched.append(method.name) or 0.8)
    searched.clear()
    monkeypatch.setattr(ladders, "ladder_of", lambda spec, model: [0.1, 0.2] if spec.name == "uniform" else [0.1, 0.3])
    _resolve(fitted, tmp_path, methods="uniform")
    assert set(searched) == {"uniform"}  # other adapters are there


def test_a_file_without_digests_loads_and_is_not_believed(
    small: dict[str, Any], searched: list[str], tmp_path: Path
) -> None:
    (first, second) = _resolve(small, tmp_path)
    old = [{k: v for k, v in one.items() if k != "rests_on"} | {"cost": 0.5} for one in _kept(tmp_path)]
    (tmp_path / "matched.json").write_text(json.dumps(old))
    assert [one.cost for one in matches.read(tmp_path / "matched.json")] == [0.5, 0.5]
    searched.clear()
    assert _resolve(small, tmp_path) == [first, second]
    assert set(searched) == {"tome", "random"} and len(_kept(tmp_path)) == 2


def test_a_refused_run_leaves_no_match_behind(small: dict[str, Any], searched: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    small["metrics"] = "paired"
    api.run(out=out, **{**small, "methods": "tome"})
    with pytest.raises(UserError, match="holds another workload .*steps"):
        api.run(out=out, **{**small, "methods": "tome", "match": "gmacs", "budgets": [0.8], "steps": 3})
    assert not (out / "matched.json").exists() and not searched


def test_calibration_cases_are_not_the_evaluation_s(small: dict[str, Any], tmp_path: Path) -> None:
    (made,) = plan.make(config.build({**small, "methods": "tome"}))
    task: Task = made.opened.task
    prompts = [case.prompt for case in task.cases(64)]
    assert not set(prompts) & {case.prompt for case in task.calibration(16, 64)}
    own = tmp_path / "prompts.txt"
    own.write_text("\n".join(f"a large red plain circle top left {i}" for i in range(6)))
    assert [case.index for case in task.calibration(2, 4, own)] == [4, 5]
    with pytest.raises(UserError, match="holds 6 cases, and 4 of a sweep with 3 others"):
        task.calibration(3, 4, own)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budgets": [1.2]}, r"a budget is a share of dense's cost in \(0, 1\), got 1.2"),
        ({"budgets": []}, "needs both an axis and budgets"),
        ({"match": "energy"}, "match: .*gmacs.*latency"),
        ({"methods": "dense-ft"}, "'dense-ft' has no strength to tune"),
        ({"methods": "diffcr"}, "'diffcr': no fitted adapters"),
        (
            {"methods": ["tome", "uniform", "dense-ft", "sensitivity", {"name": "diffcr", "axes": "layer"}]},
            r"'uniform', 'sensitivity', 'diffcr' \(axes=layer\), 'dense-ft': no fitted adapters",
        ),
    ],
)
def test_bad_budgets(small: dict[str, Any], tmp_path: Path, change: dict[str, Any], message: str) -> None:
    values = {**small, "methods": "tome", "match": "gmacs", "budgets": [0.8], **change}
    with pytest.raises(UserError, match=message):
        api.run(out=tmp_path / "run", **values)


def test_a_reference_that_has_nothing_to_tune_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch, small: dict[str, Any], tmp_path: Path
) -> None:
    monkeypatch.setattr(budgets, "relative_cost", lambda _on, method, *_: 1 - (method.ratio or 0.0))
    (tmp_path / "dense-ft.safetensors").touch()
    values = {**small, "methods": "dense,tome,dense-ft", "match": "gmacs", "budgets": [0.8], "adapters": [tmp_path]}
    sweep = config.build(values)
    tuned, found = budgets.resolved(sweep, tmp_path, plan.load_model(sweep))
    assert [spec.name for spec in tuned.methods] == ["dense-ft", "tome"]
    assert [(one.method, one.met) for one in found] == [("tome", True)]


def test_adapters_per_ratio_are_the_only_rungs(monkeypatch: pytest.MonkeyPatch) -> None:
    made = load("shapes")
    assert list(ladders.ladder_of(MethodSpec(name="uniform"), made)) == [0.1, 0.2, 0.3, 0.5]
    assert list(ladders.ladder_of(MethodSpec(name="diffcr", settings={"axes": "layer"}), made)) == [0.1, 0.2, 0.3]
    assert len(ladders.ladder_of(MethodSpec(name="static"), made)) == 2001


def test_settings_are_chosen_on_cases_that_the_evaluation_never_sees() -> None:
    prints, drawn, seeds = {}, {}, {}
    for split in ("evaluation", "calibration"):
        (made,) = plan.make(config.build({"methods": "dense", "cases": 32, "split": split}))
        drawn[split] = {case.prompt for case in made.opened.cases}
        seeds[split] = {case.seed for case in made.opened.cases}
        prints[split] = made.opened.workload.fingerprint
        told = setup(made.opened.record(made.points[0], outcome="ok", started=""))
        assert ("32 calibration cases" in told) == (split == "calibration")
    assert not drawn["evaluation"] & drawn["calibration"]
    (other,) = plan.make(config.build({"methods": "dense", "cases": 32, "seed": 1}))
    seeds["evaluation"] |= {case.seed for case in other.opened.cases}
    assert not seeds["evaluation"] & seeds["calibration"]  # nor from its noise
    assert prints["evaluation"] != prints["calibration"]


def test_alignment_reads_the_scenes_that_calibration_cases_are_about() -> None:
    (made,) = plan.make(config.build({"methods": "dense", "cases": 4}))
    alignment = next(metric for metric in made.opened.metrics if metric.name == "alignment")
    for split, cases in (("evaluation", made.opened.cases), ("calibration", made.opened.task.calibration(4, 4))):
        images = images_to_uint8(scene.render(scene.sample(split, range(4)))[0])  # the true images
        assert alignment.estimates(Sample(cases, images), None)["alignment"].value > 0.95


def test_costs_that_rise_again_do_not_end_a_search_before_its_rungs_are_tried() -> None:
    """Noise, or caches that leap: what one budget has measured is not monotone."""
    ladder, costs = list(range(10)), {2: 0.9, 4: 0.76, 5: 0.86, 8: 0.5}
    search.bisect(ladder, costs, 0.8, lambda rung: {3: 0.8}[int(rung)])
    assert costs[3] == 0.8
