"""Image files as people have them: rotated, transparent, with 16 bits, damaged."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness import image_files
from harness.errors import UserError
from harness.models.prompt_states import PromptStates, States
from tasks import prompts
from tasks.metrics import references


def test_an_image_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    pixels = np.zeros((4, 8, 3), dtype=np.uint8)
    pixels[:, :4] = 255  # white on the left
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees, clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    turned = np.asarray(image_files.rgb(tmp_path / "a.png"))
    assert turned.shape == (8, 4, 3) and (turned[:4] == 255).all() and (turned[4:] == 0).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(tmp_path: Path, mode: str) -> None:
    layer = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    layer.paste((0, 0, 0, 255), (0, 0, 2, 4))
    if mode == "P":  # palettes have one transparent colour
        flat = Image.new("P", (4, 4), 1)
        flat.putpalette([0, 0, 0, 9, 9, 9])
        flat.paste(0, (0, 0, 2, 4))
        flat.save(tmp_path / "a.png", transparency=1)
    else:
        layer.convert(mode).save(tmp_path / "a.png")
    seen = np.asarray(image_files.rgb(tmp_path / "a.png"))
    assert (seen[:, :2] == 0).all() and (seen[:, 2:] == 255).all()
    with pytest.raises(UserError, match="a mask must be black and white, and this one is transparent in places"):
        image_files.mask(tmp_path / "a.png")


def test_a_mask_with_an_opaque_alpha_channel_is_one(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), "white").save(tmp_path / "a.png")
    assert (np.asarray(image_files.mask(tmp_path / "a.png")) == 255).all()


@pytest.mark.parametrize(
    "image",
    [Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)), Image.fromarray(np.ones((8, 8), dtype=np.float32))],
)
def test_more_than_eight_bits_are_refused(tmp_path: Path, image: Image.Image) -> None:
    image.save(tmp_path / "a.tiff")
    for read in (image_files.rgb, image_files.mask):
        with pytest.raises(UserError, match="more than 8 bits per channel"):
            read(tmp_path / "a.tiff")
    assert not image_files.readable(tmp_path / "a.tiff")


def test_what_is_no_image_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n")
    Image.new("RGB", (100, 100)).save(tmp_path / "b.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # a picture that would fill the memory
    for name in ("a.png", "b.png"):
        with pytest.raises(UserError, match=f"{name} is no readable image"):
            image_files.rgb(tmp_path / name)
        with pytest.raises(UserError, match=f"{name} is no readable image"):
            list(references.images(_folder(tmp_path, [name, name, "b.png" if name == "a.png" else "a.png"])))


def _folder(place: Path, names: list[str]) -> Path:
    (place / "metadata.jsonl").write_text("\n".join(f'{{"file_name": "{name}", "text": "a"}}' for name in names))
    return place


def test_an_image_of_several_captions_is_one_reference(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    found = references.files(_folder(tmp_path, ["a.png", "b.png", "a.png", "a.png"]))
    assert [path.name for path in found] == ["a.png", "b.png"]


def test_states_are_encoded_once_and_the_same_for_all_held_once() -> None:
    asked: list[str] = []

    def encode(prompt: str) -> States:
        asked.append(prompt)
        return {"text": torch.full((1, 2), float(len(asked))), "negative": torch.zeros(1, 2)}

    states = PromptStates(encode)
    for _ in range(3):
        batch = states.batch(["a", "b", "a"])
    assert asked == ["a", "b"] and batch["text"][:, 0].tolist() == [1, 2, 1] and batch["negative"].shape == (3, 2)
    assert states.lacking(["b", "c", "c"]) == ["c"]
    batch["text"].zero_()  # what takes them may write on them
    assert states.batch(["a", "b", "a"])["text"][:, 0].tolist() == [1, 2, 1]
    held = states._held
    assert held["a"]["negative"] is held["b"]["negative"] and held["a"]["text"] is not held["b"]["text"]


@pytest.mark.parametrize("name", ["prompts.jsonl", "parti.TSV", "a.csv"])
def test_tables_are_no_prompts(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("Prompt\tCategory\na cat\tanimals\n")
    with pytest.raises(UserError, match="is a table, and prompts come one per line"):
        prompts.from_file(tmp_path / name, 2)
