"""The bundled model `emoji`: where its pictures come from."""

import json
import os
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packing import Stop, packed
from PIL import Image

from harness.errors import UserError
from harness.fitting.data import FolderData
from harness.metric import images_to_uint8
from harness.zoo.emoji import build, held_out, packages, pictures

CPU = torch.device("cpu")


def test_folders_are_built_from_packed_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "order", lambda: (5, 3))
    out, said = tmp_path / "out", list[str]()
    build.build(out, said.append, packed=packed(tmp_path / "packed"))
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
    build.build(out, lambda _: None, packed=packed(tmp_path / "six"))

    def killed(self: Image.Image, *args: Any, **kwargs: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Stop
        save(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", killed)
        with pytest.raises(Stop):
            build.build(out, lambda _: None, packed=packed(tmp_path / "four", 4))
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
