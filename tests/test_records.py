"""What a finished run holds is enough: for tables, plots, differences, and for other runs; drawing needs no model."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import harness
from harness import config, plan, registry
from harness.engine import OpenWorkload
from harness.executors import isolated, worker
from harness.executors.execute import Listener
from harness.measure import environment
from results import Run, RunFolder, Table, open_run, taken_over
from results.analysis.differences import NotComparable


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of dense, ToMe and random tokens on four cases."""
    out = tmp_path_factory.mktemp("runs") / "first"
    harness.run("tome,random", model=str(tiny_folder), cases=4, rounds=2, ratios=[0.2], batch=2, out=out)
    return out


def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What generates images, from now on, by the label of its point."""
    generated: list[str] = []
    original = OpenWorkload.generate

    def generate(self: OpenWorkload, method: Any, *rest: Any) -> Any:
        generated.append(method.name)
        return original(self, method, *rest)

    monkeypatch.setattr(OpenWorkload, "generate", generate)
    return generated


def again(finished: Path, tiny_folder: Path, methods: str = "tome,random", **more: Any) -> Run:
    values = {"model": str(tiny_folder), "cases": 4, "rounds": 2, "ratios": [0.2], "batch": 2, "out": finished}
    return harness.run(methods, **{**values, **more})


def test_a_record_holds_its_cases_values_and_features(finished: Path) -> None:
    with RunFolder.open(finished) as folder:
        dense, tome, _ = folder.records()
        assert [case.seed for case in tome.cases] == [0, 1, 2, 3] and tome.cases == dense.cases
        assert all(case.prompt and case.facts["split"] == "evaluation" for case in tome.cases)
        per_image = {name: e for name, e in tome.estimates.items() if e.values}
        assert {"alignment", "psnr_to_dense", "distance_to_dense[shapes-judge]"} <= set(per_image)
        for name, estimate in per_image.items():
            assert len(estimate.values) == 4 and np.mean(estimate.values) == pytest.approx(estimate.value), name
        features = folder.features(tome, "shapes-judge")
        assert features is not None and features.shape == (4, 64)
        reference = folder.reference(tome, "fid[shapes-judge]")
        assert reference is not None and reference.shape == (2048, 64)
        maps = folder.token_maps(tome)
        assert maps is not None and maps.keep.shape == (4, 3, 16, 16) and folder.token_maps(dense) is None
        assert {"commit", "torch", "device", "threads"} <= set(tome.environment)
        assert "torch" not in tome.fingerprint and tome.judged and "gmacs" not in tome.judged


def test_every_output_is_drawn_where_torch_cannot_be_imported(finished: Path) -> None:
    outputs = [path for kind in ("tables", "plots") for path in sorted((finished / kind).rglob("*")) if path.is_file()]
    before = {path: path.read_bytes() for path in outputs}
    assert len(before) > 10 and any("maps" in str(path) for path in before)
    for path in outputs:
        path.unlink()
    code = (
        "import sys\n"
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'diffusers', 'transformers', 'methods', 'tasks'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, No())\n"
        "import harness\n"
        "run = harness.open_run(sys.argv[1]); run.write(); run.print(); print(len(run.records))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(finished)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "3"
    assert {path: path.read_bytes() for path in outputs} == before


def test_outputs_that_were_never_drawn_are_drawn_by_the_next_run(
    finished: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated = heard(monkeypatch)
    (finished / "tables" / "drawn.json").unlink()
    (finished / "plots" / "images.png").unlink()
    again(finished, tiny_folder)
    assert (finished / "plots" / "images.png").is_file() and not generated


def test_differences_from_records_alone(finished: Path) -> None:
    run = open_run(finished)
    same = run.compare("tome 20 %", "tome", "alignment")
    assert same.value == 0 and same.n == 4
    found = run.compare("tome", "dense", "alignment")
    values = [run.find(name).estimates["alignment"].values for name in ("tome", "dense")]
    assert found.value == pytest.approx(np.mean(np.subtract(*values))) and found.p is None  # four cases
    fid = run.compare("tome", "dense", "fid[shapes-judge]")
    one, other = (run.find(name).estimates["fid[shapes-judge]"].value for name in ("tome", "dense"))
    assert fid.value == pytest.approx(one - other, rel=0.02) and fid.low is not None  # features are kept in half
    with pytest.raises(NotComparable, match="dense .* has no 'psnr_to_dense'"):
        run.compare("tome", "dense", "psnr_to_dense")
    with pytest.raises(KeyError, match="no point of the name 'tomme'; there are: dense, tome 20 %, random 20 %"):
        run.compare("tomme", "dense", "alignment")
    other_cases = tuple(case.model_copy(update={"seed": 77 + case.seed}) for case in run.find("tome").cases)
    with pytest.raises(NotComparable, match="no case in common"):
        run.compare(run.find("tome").model_copy(update={"cases": other_cases}), "dense", "alignment")


def test_a_point_in_a_process_of_its_own_gives_the_same(finished: Path, tiny_folder: Path, tmp_path: Path) -> None:
    apart = again(tmp_path / "apart", tiny_folder, "tome", isolate=True)
    here = open_run(finished)
    for one, other in zip(here.records[:2], apart.records, strict=True):
        assert (one.key, one.outcome, one.cases) == (other.key, other.outcome, other.cases)
        for name in one.judged:
            assert one.estimates[name].value == pytest.approx(other.estimates[name].value, rel=1e-4), name
        assert one.estimates["gmacs"] == other.estimates["gmacs"]
        a, b = here.images(one), apart.images(other)
        assert a is not None and b is not None and (a == b).all()


def test_a_folder_grows_by_a_method(
    finished: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "grown"
    shutil.copytree(finished, out)
    generated = heard(monkeypatch)
    run = again(out, tiny_folder, "fewer-steps", fresh=True)
    assert generated == ["fewer-steps"] and [r.method for r in run.records] == ["dense", "fewer-steps"]
    rows = (out / "tables" / "results.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["dense", "tome", "random", "fewer-steps"]


def test_finished_points_of_another_run_are_taken_over(
    finished: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    class Ear(Listener):
        def say(self, line: str) -> None:
            said.append(line)

    generated = heard(monkeypatch)
    second = finished.parent / "second"
    run = again(second, tiny_folder, "tome,fewer-steps", listener=Ear())
    assert generated == ["fewer-steps"]
    assert said == ["2 finished points are taken over from first (--fresh runs them anew)"]
    assert run.records[1].started == open_run(finished).records[1].started
    assert all((second / image).is_file() for record in run.records for image in record.images)
    again(finished.parent / "third", tiny_folder, "tome", fresh=True)
    assert generated[1:] == ["dense", "tome"]


def test_what_a_killed_run_left_of_the_images_is_completed(finished: Path, tmp_path: Path) -> None:
    dense, out = open_run(finished).records[0], tmp_path / "half"
    for name in (dense.images[1], next(iter(dense.features.values()))):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(finished / name, out / name)
    with RunFolder.grow(out, {}) as folder:
        taken_over.take(folder, {dense.key: finished})
        (record,) = folder.records()
        images = Run([record], out).images(record)
        assert folder.complete(record) and images is not None and len(images) == 4
        assert not list(out.rglob("*.part"))


def test_a_child_that_dies_behind_its_record_loses_nothing(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = open_run(finished).records[0].model_copy(update={"started": "2999-01-01T00:00:00+00:00"})
    point = SimpleNamespace(key=dense.key, label="dense", to_json=dict)
    opened = SimpleNamespace(work_per_point=4)
    with RunFolder.grow(tmp_path / "run", {}) as folder:
        monkeypatch.setattr(isolated, "_child", lambda *_: (folder.put(dense), ("ended by SIGSEGV", ""))[1])
        kept = isolated.run_point(opened, point, folder, lambda *_: None)  # type: ignore[arg-type]
        assert kept == dense and folder.records() == [dense]


def test_why_a_child_s_point_failed_is_told_where_an_older_record_stays(
    finished: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    sweep = config.build({"methods": "tome", "model": str(tiny_folder), "cases": 2, "rounds": 2, "metrics": "paired"})
    (made,) = plan.make(sweep)
    point = made.points[1]  # whose dense has no images here
    with RunFolder.grow(tmp_path / "run", {}) as folder:
        older = made.opened.record(point, outcome="incomplete", reason="a metric failed", started="2020-01-01")
        folder.put(older)
        told = isolated.run_point(made.opened, point, folder, lambda *_: None)
        assert told.reason == "the dense point that it is compared with has no images here"
        assert folder.store.get(point.key) == older


def test_a_child_has_the_threads_of_its_workload(finished: Path, tiny_folder: Path) -> None:
    sweep = config.build({"methods": "tome", "model": str(tiny_folder), "cases": 4, "metrics": "alignment"})
    workload = plan.make(sweep)[0].opened.workload
    before = torch.get_num_threads()
    try:
        worker.open_workload(replace(workload, depends_on=workload.depends_on | {"threads": str(before + 2)}))
        assert torch.get_num_threads() == before + 2
    finally:
        torch.set_num_threads(before)


def test_a_folder_that_may_not_be_read_is_passed_over(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed, original = finished.parent / "closed", Path.is_file
    closed.mkdir(exist_ok=True)

    def is_file(self: Path) -> bool:
        if closed in self.parents:
            raise PermissionError(13, "Permission denied", str(self))
        return original(self)

    monkeypatch.setattr(Path, "is_file", is_file)
    key = open_run(finished).records[0].key
    assert taken_over.beside(finished.parent / "another", [key]) == {key: finished}


def test_a_metric_that_changed_judges_the_images_that_are_there(
    finished: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    finished = Path(shutil.copytree(finished, tmp_path / "run"))
    before = {r.method: r for r in open_run(finished).records}
    generated = heard(monkeypatch)
    monkeypatch.setattr(registry.metrics.get("fid"), "version", 99)
    run = again(finished, tiny_folder)
    assert not generated
    for record in run.records:
        old = before[record.method]
        assert record.key != old.key and record.sample_key == old.sample_key
        assert record.estimates["latency_s"] == old.estimates["latency_s"]  # measured once
        assert set(record.estimates) == set(old.estimates)
    assert [r.key for r in open_run(finished).records] == [r.key for r in run.records]


def test_runs_of_two_commits_share_a_front(
    finished: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(environment, "commit", lambda: "0123abc")
    other = again(tmp_path / "other", tiny_folder, "tome")
    table = Table([*open_run(finished).records[:2], other.records[1]])
    assert other.records[1].environment["commit"] == "0123abc"
    assert len(table.groups) == 1 and len(table.pareto("gmacs", "alignment")) == 3


def test_a_failure_keeps_its_traceback(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from methods.tome import ToMe

    def attach(self: Any, backbone: Any, state: Any = None) -> Any:
        raise RuntimeError("the lens is broken")

    monkeypatch.setattr(ToMe, "attach", attach)
    failed = again(tmp_path / "run", tiny_folder, "tome").records[1]
    assert failed.outcome == "failed" and failed.reason == "RuntimeError: the lens is broken"
    assert "Traceback" in failed.traceback and "in attach" in failed.traceback and not failed.estimates


def test_a_profile_resumes_and_grows(tiny_folder: Path, tmp_path: Path) -> None:
    values: dict[str, Any] = {"model": str(tiny_folder), "ratios": [0.2], "rounds": 2, "out": tmp_path / "profile"}
    first = harness.profile("tome", batch=1, **values)
    second = harness.profile("tome,uniform", batch="1,2", **values)
    assert [(r.method, r.n_cases) for r in second.records] == [
        (method, batch) for batch in (1, 2) for method in ("dense", "tome", "uniform")
    ]
    assert [r.started for r in second.records[:2]] == [r.started for r in first.records]
    assert len(open_run(tmp_path / "profile").records) == 6
    csv = (tmp_path / "profile" / "tables" / "profile.csv").read_text().splitlines()
    assert len(csv) == 7 and csv[0].startswith("method,settings,ratio,ratio_reached,task,batch,size")
