"""Whole sweeps on a tiny model: records, failures, resume, outputs."""

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import harness
from harness import registry
from harness.errors import UserError

CALL = {"height": 64, "width": 64, "clean_caption": False, "use_resolution_binning": False, "max_sequence_length": 32}
COLUMNS = [
    "method", "settings", "ratio", "ratio_reached", "task", "model", "device", "dtype", "steps", "cases", "outcome",
    "reason", "gmacs", "gmacs_paper", "latency_s", "latency_ratio", "latency_ratio_low", "latency_ratio_high",
    "peak_memory_mb",
]  # fmt: skip


def test_a_sweep_and_its_second_run(small: dict[str, object], tmp_path: Path) -> None:
    out = tmp_path / "run"
    small["batch"] = 1
    table = harness.run(["tome"], out=out, **small)
    frame = pd.read_csv(out / "tables" / "results.csv")
    assert [name for name in frame.columns if name in COLUMNS] == COLUMNS and frame.columns[-1] == "key"
    assert {"gmacs_n", "latency_s_low", "alignment_n"} <= set(frame.columns)  # every figure has its n and interval
    assert frame["method"].tolist() == ["dense", "tome"] and frame["outcome"].tolist() == ["ok", "ok"]
    dense, tome = frame.iloc[0], frame.iloc[1]
    assert tome["gmacs"] < dense["gmacs"] and tome["gmacs_paper"] < tome["gmacs"]
    assert tome["latency_ratio_low"] <= tome["latency_ratio"] <= tome["latency_ratio_high"]
    assert "throughput_images_s" not in frame  # two batches, the first of which warms up, are too few
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
    small |= {"metrics": "paired", "fresh": True}  # else the second takes over what the first made
    first, second = (harness.run(["tome"], out=tmp_path / name, **small) for name in ("a", "b"))
    for one, other in zip(first.records, second.records, strict=True):
        for image in one.images:
            assert (tmp_path / "a" / image).read_bytes() == (tmp_path / "b" / image).read_bytes()
        assert one.key == other.key


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
    small["metrics"] = "paired"
    harness.run(["dense"], out=tmp_path, **small)
    before = (tmp_path / "store.sqlite").read_bytes()
    with pytest.raises(UserError, match=r"holds another workload \(cases: 2 there, 3 asked for\)"):
        harness.run(["dense"], out=tmp_path, **{**small, "cases": 3})
    assert (tmp_path / "store.sqlite").read_bytes() == before


def test_a_damaged_store_is_named_and_left_alone(small: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(UserError, match=r"store\.sqlite"):
        harness.run(["dense"], out=tmp_path, **small)
    assert (tmp_path / "store.sqlite").read_bytes() == b"this is no database" * 100


def test_a_missing_adapter_names_the_fit_command(small: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"no adapter 'diffcr-lt-20'.*python -m harness fit diffcr"):
        harness.run(["diffcr"], **small)


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
