"""Whole sweeps on a tiny model: records, failures, resume, outputs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import harness
from harness import cli, registry
from harness.errors import UserError
from results import Store

CALL = {"height": 64, "width": 64, "clean_caption": False, "use_resolution_binning": False, "max_sequence_length": 32}
COLUMNS = [
    "method", "settings", "ratio", "ratio_reached", "task", "model", "device", "dtype", "steps", "cases", "outcome",
    "reason", "gmacs", "gmacs_paper", "latency_s", "latency_ratio", "latency_ratio_low", "latency_ratio_high",
    "peak_memory_mb",
]  # fmt: skip
BROKEN = """
import torch
import harness
from harness.method import Method, RatioSettings
from contextlib import contextmanager

def make(name, advice):
    class Broken(Method):
        Settings = RatioSettings
        @contextmanager
        def attach(self, backbone, state=None):
            with backbone.advise("block", advice):
                yield
    harness.methods.register(name)(Broken)

def boom(call):
    raise RuntimeError("the block is on fire")

make("raises", boom)
make("not-a-number", lambda call: call.x * float("nan"))
make("misshaped", lambda call: call.run(call.x)[:, ::2])
make("idle", lambda call: call.run(call.x))
make("free-lunch", lambda call: call.run(call.x) * 1.01)
"""


@pytest.fixture
def small(tiny_folder: Path) -> dict[str, object]:
    torch.set_num_threads(2)
    return {"model": str(tiny_folder), "cases": 2, "rounds": 2, "ratios": [0.2]}


def argv(small: dict[str, object], *more: str) -> list[str]:
    return ["run", "--model", str(small["model"]), "--cases", "2", "--ratios", "0.2", *more]


def main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["harness", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


def test_a_sweep_and_its_second_run(small: dict[str, object], tmp_path: Path) -> None:
    out = tmp_path / "run"
    small["batch"] = 1
    table = harness.run(["tome"], out=out, **small)
    frame = pd.read_csv(out / "tables" / "results.csv")
    assert list(frame.columns[: len(COLUMNS)]) == COLUMNS and frame.columns[-1] == "key"
    assert frame["method"].tolist() == ["dense", "tome"] and frame["outcome"].tolist() == ["ok", "ok"]
    dense, tome = frame.iloc[0], frame.iloc[1]
    assert tome["gmacs"] < dense["gmacs"] and tome["gmacs_paper"] < tome["gmacs"]
    assert tome["latency_ratio_low"] <= tome["latency_ratio"] <= tome["latency_ratio_high"]
    assert (frame["throughput_images_s"] > 0).all()
    assert dense["alignment_low"] <= dense["alignment"] <= dense["alignment_high"]
    assert pd.isna(dense["psnr_to_dense"]) and tome["psnr_to_dense"] > 0
    assert {"fid[shapes-judge]", "kid[shapes-judge]_low"} <= set(frame.columns)
    for record in table.records:
        assert len(record.images) == 2 and all((out / image).is_file() for image in record.images)
    for name in ("tables/pareto.csv", "tables/pareto.md", "plots/images.png", "log.jsonl"):
        assert (out / name).stat().st_size > 0
    assert list((out / "plots").glob("pareto_*.png")) and list((out / "plots").glob("pareto_*.svg"))

    made: list[str] = []
    again = harness.run(["tome"], out=out, progress=lambda what, images: made.append(what), **small)
    assert not made  # nothing is generated again
    assert [r.key for r in again.records] == [r.key for r in table.records]
    assert again.records[1].started == table.records[1].started


def test_same_seed_same_images_in_another_folder(small: dict[str, object], tmp_path: Path) -> None:
    first, second = (harness.run(["tome"], out=tmp_path / name, **small) for name in ("a", "b"))
    for one, other in zip(first.records, second.records, strict=True):
        for image in one.images:
            assert (tmp_path / "a" / image).read_bytes() == (tmp_path / "b" / image).read_bytes()
        assert one.key == other.key


def test_what_goes_wrong_is_a_record_and_the_sweep_goes_on(
    small: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = tmp_path / "broken.py"
    plugin.write_text(BROKEN)
    out = tmp_path / "run"
    names = ["raises", "not-a-number", "misshaped", "idle", "free-lunch"]
    try:
        code = main(
            monkeypatch,
            *argv(small, "--methods", ",".join([*names, "tome"]), "--plugin", str(plugin), "--out", str(out)),
        )
    finally:
        for name in names:
            registry.methods.forget(name)
        sys.modules.pop("harness_plugin_broken", None)
    assert code == 1
    frame = pd.read_csv(out / "tables" / "results.csv").set_index("method")
    assert frame.loc["tome", "outcome"] == "ok"
    reasons = frame.loc[names, "reason"].to_dict()
    assert "the block is on fire" in reasons["raises"]
    assert "NaN" in reasons["not-a-number"]
    assert "shape" in reasons["misshaped"]
    assert "changed nothing" in reasons["idle"]
    assert "changed no cost" in reasons["free-lunch"]
    assert frame.loc[names, "gmacs"].isna().all()
    assert "on fire" in capsys.readouterr().err


FRAGILE = """
import os, signal
import harness
from harness.method import Method, RatioSettings
from harness.metric import Metric
from contextlib import contextmanager

@harness.methods.register("deadly")
class Deadly(Method):
    Settings = RatioSettings
    @contextmanager
    def attach(self, backbone, state=None):
        os.kill(os.getpid(), signal.SIGKILL)
        yield

@harness.metrics.register("fragile")
class Fragile(Metric):
    name = about = "fragile"
    @classmethod
    def applies(cls, model):
        return True
    def estimates(self, sample, dense):
        raise RuntimeError("no such lens")
"""


def test_isolated_points_die_alone_and_a_broken_metric_costs_only_itself(
    small: dict[str, object], tmp_path: Path
) -> None:
    plugin = tmp_path / "fragile.py"
    plugin.write_text(FRAGILE)
    try:
        registry.load_plugin(plugin)
        table = harness.run(
            ["deadly", "tome"], metrics=["alignment", "fragile"], out=tmp_path / "run", isolate=True, **small
        )
    finally:
        registry.methods.forget("deadly")
        registry.metrics.forget("fragile")
        sys.modules.pop("harness_plugin_fragile", None)
    dense, deadly, tome = table.records
    assert deadly.outcome == "failed" and "SIGKILL" in deadly.reason and not deadly.estimates
    for record in (dense, tome):
        assert record.outcome == "incomplete" and record.reason == "metric fragile: RuntimeError: no such lens"
        assert {"alignment", "gmacs", "latency_ratio"} <= set(record.estimates)
    frame = pd.read_csv(tmp_path / "run" / "tables" / "results.csv").set_index("method")
    assert frame.loc["tome", "alignment"] >= 0 and pd.isna(frame.loc["deadly", "gmacs"])
    assert not table.pareto("gmacs", "alignment").empty


def test_another_configuration_is_refused(small: dict[str, object], tmp_path: Path) -> None:
    harness.run(["dense"], out=tmp_path, **small)
    before = (tmp_path / "store.sqlite").read_bytes()
    with pytest.raises(UserError, match=r"another configuration \(differs in: cases"):
        harness.run(["dense"], out=tmp_path, **{**small, "cases": 3})
    assert (tmp_path / "store.sqlite").read_bytes() == before


def test_a_damaged_store_is_named_and_left_alone(small: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(UserError, match=r"store\.sqlite"):
        harness.run(["dense"], out=tmp_path, **small)
    assert (tmp_path / "store.sqlite").read_bytes() == b"this is no database" * 100


def test_killed_in_the_middle_it_goes_on_from_there(small: dict[str, object], tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "harness", *argv(small, "--methods", "tome", "--out", str(out))]
    command += ["--ratios", "0.1,0.2,0.3,0.4"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    done = 0
    while time.monotonic() < deadline and process.poll() is None and not done:
        time.sleep(0.1)
        log = out / "log.jsonl"
        done = len(log.read_text().splitlines()) if log.exists() else 0
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with Store(out / "store.sqlite") as store:
        before = {record.key: record.started for record in store.records()}
    assert 0 < len(before) < 5
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    with Store(out / "store.sqlite") as store:
        records = store.records()
    assert len(records) == 5 and all(record.outcome == "ok" for record in records)
    assert {r.key: r.started for r in records if r.key in before} == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--methods", "difcr"], "unknown method 'difcr': did you mean 'diffcr'"),
        (["run", "--task", "text-to-imag"], "did you mean 'text-to-image'"),
        (["run", "--model", "shape"], "did you mean 'shapes'"),
        (["run", "--metrics", "fud"], "did you mean 'fid'"),
        (["run", "--ratios", "1.4"], "must lie in [0, 0.9], got 1.4"),
        (["run", "--ratios", "a"], "--ratios expects numbers"),
        (["run", "--device", "cuda"], "no CUDA device"),
        (["run", "--dtype", "float23"], "did you mean 'float32'"),
        (["run", "--config", "/nowhere.yaml"], "cannot be read"),
        (["run", "--plugin", "/nowhere.py"], "does not exist"),
        (["run", "--set", "tome.aroun=mlp"], "did you mean 'around'"),
        (["run", "--set", "uniform.ratio=0.2"], "with a method of this sweep"),
        (["run", "--model", "/nowhere/at/all"], "does not exist"),
        (["fit", "difcr"], "did you mean 'diffcr'"),
        (["fit", "diffcr", "--ratio", "2"], "--ratio must lie in (0, 0.9]"),
        (["fit", "diffcr", "--set", "stepz=3"], "did you mean 'steps'"),
        (["train", "shape"], "did you mean 'shapes'"),
        (["list", "method"], "did you mean 'methods'"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if torch.cuda.is_available() and "cuda" in arguments:
        pytest.skip("this machine has one")
    monkeypatch.chdir(tmp_path)
    assert main(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("error: ") and said in error[0]
    assert not list(tmp_path.iterdir())  # nothing was written


def test_a_folder_that_is_no_pipeline(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(monkeypatch, "run", "--model", str(tmp_path)) == 2
    assert "holds no model_index.json" in capsys.readouterr().err


def test_damaged_weights(
    small: dict[str, object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "pipeline"
    shutil.copytree(str(small["model"]), folder)
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"\x00" * 100)
    assert main(monkeypatch, "run", "--model", str(folder), "--methods", "tome") == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and str(folder) in error[0]


def test_a_missing_adapter_names_the_fit_command(small: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"no adapter 'diffcr-lt-20'.*python -m harness fit diffcr"):
        harness.run(["diffcr"], **small)


def test_dry_run_writes_nothing(
    small: dict[str, object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["harness", *argv(small, "--methods", "tome", "--dry-run")])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code
    assert "2 of 2 points to run, 2 cases each" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_apply_and_remove(tiny_folder: Path) -> None:
    from diffusers import PixArtSigmaPipeline

    def latent(pipeline: Any) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return pipeline("star", num_inference_steps=3, generator=generator, output_type="latent", **CALL).images

    pipeline = PixArtSigmaPipeline.from_pretrained(tiny_folder)
    pipeline.set_progress_bar_config(disable=True)
    dense = latent(pipeline)
    harness.apply(pipeline, "tome", ratio=0.3)
    assert not torch.equal(latent(pipeline), dense)
    with pytest.raises(UserError, match=r"call harness\.remove"):
        harness.apply(pipeline, "tome", ratio=0.1)
    harness.remove(pipeline)
    harness.remove(pipeline)  # a second time is no error
    assert torch.equal(latent(pipeline), dense)
    with pytest.raises(UserError, match="did you mean 'ratio'"):
        harness.apply(pipeline, "tome", ratioo=0.3)
