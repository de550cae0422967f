"""Prompts of a user's own: COCO's captions, and folders of images with captions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.errors import UserError
from harness.models import Model
from harness.task import tuned_on
from tasks import prompts
from tasks.text_to_image import TextToImage

ANNOTATIONS = [
    {"image_id": image, "id": 10 * image + k, "caption": f" image {image}\ncaption {k} "}
    for image in range(40, 60) for k in range(5)
]  # fmt: skip


@pytest.fixture
def task(model: Model) -> TextToImage:
    return TextToImage(model, steps=2, guidance=2.0)


@pytest.fixture
def coco(tmp_path: Path) -> Callable[[Any], Path]:
    def write(held: Any) -> Path:
        (tmp_path / "captions.json").write_text(json.dumps(held))
        return tmp_path / "captions.json"

    return write


def test_one_caption_per_coco_image_whatever_the_files_order(task: TextToImage, coco: Callable[[Any], Path]) -> None:
    cases = task.cases(20, coco({"images": [], "annotations": ANNOTATIONS}))
    assert sorted(case.data["image_id"] for case in cases) == list(range(40, 60))
    assert all(case.prompt.startswith(f"image {case.data['image_id']} caption ") for case in cases)
    assert len({case.prompt[-1] for case in cases}) > 2  # not always the first
    assert [case.data["image_id"] for case in cases] != list(range(40, 60))  # shuffled, so that a few are a sample
    assert cases == task.cases(20, coco({"annotations": ANNOTATIONS[::-1]}))
    assert task.cases(5, coco({"annotations": ANNOTATIONS})) == cases[:5]
    tuned = task.calibration(4, 5, coco({"annotations": ANNOTATIONS}))
    assert tuned == tuned_on(cases[16:])  # the last ones, from noise of their own
    assert not {case.seed for case in tuned} & {case.seed for case in cases}


@pytest.mark.parametrize(
    ("held", "match"),
    [
        ({"images": []}, "is no MS-COCO captions file: expected JSON with annotations"),
        ([1], "is no MS-COCO captions file"),
        ({"annotations": [{"image_id": 1, "id": 2}]}, "each with image_id, id and caption .KeyError: 'caption'"),
        ({"annotations": [{"image_id": 1, "id": 2, "caption": None}]}, "is no MS-COCO captions file"),
    ],
)
def test_bad_coco_files(task: TextToImage, coco: Callable[[Any], Path], held: Any, match: str) -> None:
    with pytest.raises(UserError, match=match):
        task.cases(21, coco(held))


def test_files_that_cannot_be_read(task: TextToImage, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match="is no MS-COCO captions file"):
        task.cases(2, tmp_path / "a.json")
    for name in ("gone.json", "gone.txt"):
        with pytest.raises(UserError, match=rf"prompts file .*{name} cannot be read"):
            task.cases(2, tmp_path / name)


def folder_of(place: Path, rows: list[Any]) -> Path:
    place.mkdir(exist_ok=True)
    (place / "metadata.jsonl").write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    for name in ("0.png", "1.png"):
        Image.new("RGB", (8, 8)).save(place / name)
    return place


def test_a_folders_captions_are_the_prompts_and_its_images_the_reference(task: TextToImage, tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path / "data", [{"file_name": "1.png", "text": " a star "}, "", {"file_name": "0.png", "text": "a b"}]
    )
    cases = task.cases(2, data=folder)
    assert [(case.prompt, case.data["file"].name) for case in cases] == [("a star", "1.png"), ("a b", "0.png")]
    assert TextToImage.reference(folder) == folder and TextToImage.reference(None) is None
    with pytest.raises(UserError, match="leave one of them out"):
        task.cases(2, tmp_path / "p.txt", folder)
    assert task.cases(3, data=folder) == cases  # all that there are
    with pytest.raises(UserError, match="data holds 2 cases, and 1 of a sweep with 3 others to tune on take more"):
        task.calibration(3, 1, data=folder)


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ("{", "line 1 of .* needs file_name and text"),
        ({"file_name": "0.png"}, "line 1 of .* needs file_name and text"),
        ({"file_name": "0.png", "text": 3}, "line 1 of .* needs file_name and text"),
        ({"file_name": "0.png", "text": " "}, "line 1 of .* has an empty text"),
        ({"file_name": "9.png", "text": "a"}, r"line 1 of .* names 9\.png, which is not there"),
    ],
)
def test_bad_folders(row: Any, match: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=match):
        prompts.from_folder(folder_of(tmp_path / "data", [row]), 1)


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no metadata\.jsonl"):
        prompts.from_folder(tmp_path, 1)
    with pytest.raises(UserError, match="does not exist"):
        prompts.from_folder(tmp_path / "gone", 1)
