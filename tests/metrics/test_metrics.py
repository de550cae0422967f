"""Metrics in a sweep: what applies, what is said where something is absent, and metrics of other people."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from samples import sample

import harness
from harness import config, plan, registry
from harness.cli.options import by_metric
from harness.errors import UserError
from harness.metric import Sample, images_to_uint8
from harness.models import Model
from harness.spec import Case
from results.analysis.differences import difference
from tasks.metrics import clip, features, inception
from tasks.metrics.fid import FID
from tasks.metrics.kid import KID

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"


def test_all_metrics_of_real_models_in_a_sweep(
    small: dict[str, Any], weights: Path, clip_folder: Path, photos: Path, lpips_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The folder's captions are the prompts and its images the reference set, and every declared column comes true."""
    # 27 figures: drawn in other tests
    monkeypatch.setattr("results.plots.pareto_plot.write_plots", lambda table, folder, **_: [])
    settings = {
        "fid": {"weights": weights}, "kid": {"weights": weights.parent}, "lpips": {"weights": lpips_file},
        "clip-score": {"model": clip_folder}, "cmmd": {"model": clip_folder},
    }  # fmt: skip
    settings = {name: {key: str(value) for key, value in own.items()} for name, own in settings.items()}
    names = ["paired", *settings]
    table = harness.run(["tome"], out=tmp_path / "run", metrics=names, metric_settings=settings, data=photos, **small)
    frame = pd.read_csv(tmp_path / "run" / "tables" / "results.csv")
    assert frame["outcome"].tolist() == ["ok", "ok"], frame["reason"].tolist()
    tome = frame.set_index("method").loc["tome"]
    for column in ("fid[inception]", "kid[inception]", "clip_score[tiny-clip]", "cmmd[tiny-clip]",
                   "lpips_to_dense[alex]"):  # fmt: skip
        assert tome[f"{column}_low"] <= tome[column] <= tome[f"{column}_high"], column
    assert pd.isna(frame.set_index("method").loc["dense", "lpips_to_dense[alex]"])
    assert "fid[shapes-judge]" not in frame  # the judge's references are renders, which the captions are not of
    record = table.records[1]
    prints = record.fingerprint
    assert "resize clean, reference" in prints["fid[inception]"] and "reference" in prints["cmmd[tiny-clip]"]
    assert {"kid[inception]", "clip_score[tiny-clip]", "lpips_to_dense[alex]"} <= set(prints)
    assert "6 images of" in record.estimates["fid[inception]"].convention
    for name in names:
        declared = {c.name.replace("<model>", "tiny-clip"): c for c in registry.metrics.get(name).columns}
        mine = {key: e for key, e in record.estimates.items() if key in declared}
        assert mine, name
        assert all((e.unit, e.better) == (declared[key].unit, declared[key].better) for key, e in mine.items())


def test_the_default_run_leaves_out_what_has_no_weights(small: dict[str, Any], photos: Path) -> None:
    wanted = ["alignment", "fid", "kid", "masked-alignment", "paired", "seam", "square", "truth"]
    for data in (None, photos):
        (made,) = plan.make(config.build({**small, "methods": "dense", "data": data}))
        # renders are no reference for the user's own captions
        left_out = () if data is None else ("fid", "kid")
        assert [metric.name for metric in made.opened.metrics] == [name for name in wanted if name not in left_out]
        assert not any("inception" in name for name in made.opened.workload.fingerprint)


def test_the_reference_set_is_part_of_the_key(
    small: dict[str, Any], weights: Path, photos: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for i in range(2):
        Image.new("RGB", (32, 32), (i, 0, 0)).save(other / f"{i}.png")

    def key(folder: Path) -> str:
        settings = {"fid": {"weights": weights, "reference": folder}}
        return plan.make(config.build({**small, "methods": "dense", "metric_settings": settings}))[0].points[0].key

    assert key(photos) != key(other)
    moved = tmp_path / "moved"
    other.rename(moved)
    before = key(moved)
    moved.rename(other)
    assert key(other) == before  # contents count, not places


def test_every_distance_keeps_the_references_it_was_given(
    small: dict[str, Any], weights: Path, photos: Path, tmp_path: Path
) -> None:
    """Paired differences are drawn from what is kept: each is that of its own two figures."""
    other = tmp_path / "other"
    other.mkdir()
    for i in range(4):
        Image.new("RGB", (32, 32), (200, 40 * i, 0)).save(other / f"{i}.png")
    settings = {
        "fid": {"weights": str(weights), "reference": str(photos)},
        "kid": {"weights": str(weights), "reference": str(other)},
    }
    run = harness.run(["tome"], out=tmp_path / "run", metrics=["fid", "kid"], metric_settings=settings, **small)
    dense, tome = run.records
    for name in ("fid[inception]", "kid[inception]"):
        found = difference(tome, dense, name, run.features, run.references)
        figures = tome.estimates[name].value - dense.estimates[name].value
        assert found.value == pytest.approx(figures, rel=0.05), name


def test_metrics_that_read_one_extractor_with_other_weights(weights: Path, photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / weights.name
    other.parent.mkdir()
    network = torch.jit.load(str(weights))
    with torch.no_grad():
        next(network.parameters()).mul_(2)
    network.save(str(other))
    judged = sample()
    settings = {"weights": str(weights), "reference": str(photos)}
    model = Model("tiny", tmp_path, {}, torch.device("cpu"))
    FID(model, config.metric_settings_of(FID, settings)).estimates(judged, None)
    with pytest.raises(UserError, match="inception has other weights here than in a metric before"):
        KID(model, config.metric_settings_of(KID, settings | {"weights": str(other)})).estimates(judged, None)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"metrics": ["clip-score"]}, "metric 'clip-score': no CLIP model; give --metric-set clip-score.model=FOLDER"),
        ({"metrics": ["cmmd"]}, "metric 'cmmd': no CLIP model"),
        ({"metrics": ["lpips"]}, "metric 'lpips': no weights; make them with"),
        ({"metric_settings": {"lpips": {"weights": "gone"}}}, "metric 'lpips': LPIPS weights gone do not exist"),
        ({"metric_settings": {"fid": {"reference": "gone"}}}, r"metric 'fid': no Inception weights; save https://"),
        ({"metric_settings": {"fid": {"weights": "gone"}}}, "metric 'fid': Inception weights gone do not exist"),
        ({"metric_settings": {"fud": {}}}, "unknown metric 'fud': did you mean 'fid'"),
        ({"metric_settings": {"fid": {"referense": "a"}}}, "of metric 'fid' 'referense': did you mean 'reference'"),
        ({"metric_settings": {"paired": {"a": 1}}}, "setting of metric 'paired' 'a': known: none"),
        ({"metrics": ["kid"], "metric_settings": {"fid": {"weights": "a"}}}, "'fid' has settings but is not among"),
    ],
)  # fmt: skip
def test_what_is_missing_is_said_before_anything_runs(
    small: dict[str, Any], values: dict[str, Any], match: str
) -> None:
    with pytest.raises(UserError, match=match):
        plan.make(config.build({**small, "methods": "dense", **values}))


def test_fid_needs_a_reference_and_sound_weights(weights: Path, tmp_path: Path, model: Model) -> None:
    def check(**settings: Path) -> None:
        FID(model, config.metric_settings_of(FID, settings)).check()  # type: ignore[type-abstract]

    with pytest.raises(UserError, match=r"no reference set; give --metric-set fid\.reference=FOLDER"):
        check(weights=weights)
    (tmp_path / "other.pt").write_bytes(b"")
    with pytest.raises(UserError, match=f"must keep the name {inception.FILE}"):
        check(weights=tmp_path / "other.pt")
    (tmp_path / inception.FILE).write_bytes(b"<html>")
    with pytest.raises(UserError, match="are damaged"):
        check(weights=tmp_path)


OLD = """
import harness
from harness.metric import Metric
from results.record import Estimate

@harness.metrics.register("brightness")
class Brightness(Metric):
    def __init__(self, model):
        super().__init__(model)
    def estimates(self, sample, dense):
        return {"brightness": Estimate(value=float(sample.images.mean()), n=1, unit="levels", convention="mean")}
"""


def test_a_third_partys_metric_without_settings_keeps_working(small: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "brightness.py").write_text(OLD)
    try:
        registry.load_plugin(tmp_path / "brightness.py")
        (made,) = plan.make(config.build({**small, "methods": "dense", "metrics": ["brightness"]}))
    finally:
        registry.metrics.forget("brightness")
        sys.modules.pop("harness_plugin_brightness", None)
    assert made.opened.metrics[0].estimates(sample(), None)["brightness"].value > 0


def test_the_example_plugin(small: dict[str, Any], clip_folder: Path) -> None:
    try:
        registry.load_plugin(EXAMPLES / "pickscore.py")
        settings = {"pick-score": {"model": str(clip_folder), "processor": str(clip_folder)}}
        (made,) = plan.make(
            config.build({**small, "methods": "dense", "metrics": "pick-score", "metric_settings": settings})
        )
        judged = sample()
        found = made.opened.metrics[0].estimates(judged, None)["pick_score"]
        with pytest.raises(UserError, match="metric 'pick-score': CLIP model 'yuvalkirstain/PickScore_v1' is neither"):
            plan.make(config.build({**small, "methods": "dense", "metrics": ["pick-score"]}))
    finally:
        registry.metrics.forget("pick-score")
        sys.modules.pop("harness_plugin_pickscore", None)
    opened, cpu = clip.open_(str(clip_folder)), torch.device("cpu")
    cosine = opened.images(judged.images, cpu) * opened.texts([c.prompt for c in judged.cases], cpu)
    assert found.value == pytest.approx(opened.network.logit_scale.exp().item() * cosine.sum(1).mean(), rel=1e-5)


def test_metric_settings_on_the_command_line() -> None:
    texts = ["fid,kid.reference=a=b", "clip-score.model=openai/clip-vit-base-patch32"]
    assert by_metric(texts) == {
        "fid": {"reference": "a=b"}, "kid": {"reference": "a=b"},
        "clip-score": {"model": "openai/clip-vit-base-patch32"},
    }  # fmt: skip
    for text in ("fid.weights", "weights=a", ".weights=a", "fid.=a"):
        with pytest.raises(UserError, match="--metric-set expects METRIC.NAME=VALUE, got"):
            by_metric([text])


def test_figures_do_not_depend_on_the_order_in_memory() -> None:
    """Images from a sampler and from PNG files may lie otherwise in memory, and are the same images."""
    draw = torch.Generator().manual_seed(0)
    made = images_to_uint8(torch.rand(2, 3, 64, 64, generator=draw))
    cases = tuple(Case(i, "a", seed=i) for i in range(2))
    turned = np.asfortranarray(made)
    one, other = Sample(cases, made), Sample(cases, turned)
    assert made.flags["C_CONTIGUOUS"] and not turned.flags["C_CONTIGUOUS"] and other.images.flags["C_CONTIGUOUS"]
    assert np.array_equal(features.features(one), features.features(other))
