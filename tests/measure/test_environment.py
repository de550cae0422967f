"""The description is complete and flat; the digest follows the code and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.measure.environment import code_digest, describe


def package(folder: Path, name: str = "engine", text: str = "x = 1\n") -> Path:
    (folder / name / "inner").mkdir(parents=True)
    (folder / name / "one.py").write_text(text)
    (folder / name / "inner" / "two.py").write_text("y = 2\n")
    return folder / name


def test_describe() -> None:
    facts = describe(torch.device("cpu"))
    assert {"python", "torch", "diffusers", "tomesd", "fvcore", "clean-fid", "numpy", "pandas"} <= set(facts)
    assert {"platform", "cpu", "threads", "device"} <= set(facts)
    assert all(isinstance(value, str) and value for value in facts.values())
    assert facts["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert facts["device"] == facts["cpu"]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert describe(torch.device("cpu"))["attention"] == "SDPA: math" != facts["attention"]
    assert describe(torch.device("meta"))["device"] == "meta"


def test_the_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    here = package(tmp_path / "a")
    there = package(tmp_path / "b")
    (there / "notes.txt").write_text("not code")
    assert code_digest([here]) == code_digest([there])
    assert code_digest([here]) != code_digest([package(tmp_path / "c", text="x = 2\n")])
    assert code_digest([here]) != code_digest([package(tmp_path / "d", name="other")])
    other = package(tmp_path / "e", name="methods")
    assert code_digest([here, other]) == code_digest([other, here, here]) != code_digest([here])
    (package(tmp_path / "f") / "one.py").rename(tmp_path / "f" / "engine" / "renamed.py")
    assert code_digest([tmp_path / "f" / "engine"]) != code_digest([here])


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        code_digest([tmp_path / "nowhere"])
