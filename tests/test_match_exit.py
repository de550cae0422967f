"""The exit code of a matched run: a budget that is only nearly met is no failure."""

import sys
from pathlib import Path

import pytest

from harness import budgets, cli


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
    told = {
        0.83: (4, "budget not met: tome"),
        0.801: (4, "budget missed: tome met gmacs 0.8 in tuning and has "),
        None: (0, ""),
    }
    for cost, (code, line) in told.items():
        with pytest.MonkeyPatch.context() as patch:
            if cost is not None:
                patch.setattr(budgets, "relative_cost", lambda *_: cost)  # noqa: B023
            (out / "matched.json").unlink(missing_ok=True)
            with pytest.raises(SystemExit) as caught:
                cli.main()
        assert (caught.value.code or 0) == code
        said = capsys.readouterr().err
        assert line in said and ("budget m" in said or "budget not" in said) == (code == 4)
