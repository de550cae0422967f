"""The exit code of a matched run: a budget that is only nearly met is no failure."""

import json
import sys
from pathlib import Path

import pytest

from harness import cli


def test_closest_is_told_apart_from_met_and_from_failed(
    small: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    command = [
        "harness", "run", "--model", str(small["model"]), "--cases", "2", "--rounds", "2", "--metrics", "paired",
        "--methods", "tome", "--match", "gmacs=0.8", "--out", str(out),
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", command)
    for cost, code in ((0.83, 4), (0.801, 0)):
        found = {
            "method": "tome", "settings": {}, "chosen": {"ratio": 0.2}, "axis": "gmacs", "budget": 0.8,
            "setting": "ratio", "strength": 0.2, "cost": cost, "tried": 3, "met": code == 0,
        }  # fmt: skip
        (out / "matched.json").write_text(json.dumps([found]))
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert (caught.value.code or 0) == code
        assert ("budget not met" in capsys.readouterr().err) == (code == 4)
