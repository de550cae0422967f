"""What commands say and leave behind when they are refused, or done."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness import cli
from harness.cli.options import writable
from harness.config import method_of
from harness.errors import UserError
from harness.models import adapters, load
from methods.caching.fbcache import FBCache


def main(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["harness", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


def test_adapters_are_folders_that_are_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "one.safetensors").touch()
    words = ("run", "--methods", "diffcr", "--ratios", "0.2", "--cases", "2", "--dry-run", "--out", str(tmp_path / "o"))
    assert main(monkeypatch, *words, "--adapters", str(tmp_path / "one.safetensors")) == 2
    assert f"is a file: give {tmp_path}" in capsys.readouterr().err


def test_a_refused_command_leaves_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = ("fit", "diffcr", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "adapters"))
    assert main(monkeypatch, *words) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_fit_says_how_its_adapter_is_used(tmp_path: Path) -> None:
    method = method_of("diffcr", {"ratio": 0.3, "axes": "layer", "seed": 2})
    assert adapters.run_command(method, "shapes", tmp_path) == (
        "python -m harness run --model shapes --methods diffcr --ratios 0.3 --set diffcr.seed=2 "
        f"--set diffcr.axes=layer --adapters {tmp_path}"
    )
    byproduct = method_of("diffcr", {"ratio": 0.2, "trajectory": True})
    assert "trajectory" not in adapters.fit_command(byproduct, load("shapes"))


def test_nowhere_to_write_is_told_and_nothing_is_made(tmp_path: Path) -> None:
    writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="nothing can be written to"):
        writable(tmp_path / "file" / "a")


def test_the_list_of_metrics_names_extractors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(monkeypatch, "list", "metrics") == 0
    assert "fid[inception]" in capsys.readouterr().out


def test_one_ratio_leaves_other_strengths_at_their_defaults() -> None:
    assert FBCache.settings_for([0.2]) == [FBCache.Settings()]
    assert [one.threshold for one in FBCache.settings_for([0.1, 0.2])] == [0.06, 0.2]  # type: ignore[attr-defined]
