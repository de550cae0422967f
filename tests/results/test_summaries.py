"""`python -m harness runs`: what run folders hold, at a glance."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.cli import app
from results.record import Record
from results.run_folder import RunFolder
from results.summaries import summaries, summary


def make(path: Path, records: list[Record]) -> None:
    with RunFolder.grow(path, {"kind": "images"}) as folder:
        for record in records:
            folder.put(record)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sweep: list[Record], record: Any) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results" / "runs"
    late = record("dense", started="2031-01-02T03:04:05+00:00")
    make(folder / "older", sweep)
    make(folder / "newer", [late])
    (folder / "damaged").mkdir()
    (folder / "damaged" / "store.sqlite").write_bytes(b"no database" * 99)
    (folder / "something-else").mkdir()
    return folder


def invoke(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["runs", *arguments], env={"COLUMNS": "160"})
    return done.exit_code, done.stdout, done.stderr


def test_summary(runs: Path, sweep: list[Record]) -> None:
    found = summary(runs / "older")
    assert found.name == "older" and found.kind == "images"
    assert found.methods == ("dense", "diffcr", "uniform", "tome", "fbcache")
    assert found.points == f"{len(sweep)} (1 failed)"
    assert found.model == sweep[0].model and found.task == sweep[0].task


def test_list_is_newest_first_and_names_what_cannot_be_read(runs: Path) -> None:
    found, unreadable = summaries(runs)
    assert [one.name for one in found] == ["newer", "older"] and found[0].date == "2031-01-02 03:04"
    assert len(unreadable) == 1 and "damaged" in unreadable[0]
    code, out, _ = invoke("list")
    assert code == 0 and out.index("newer") < out.index("older") and "not readable: " in out
    assert "something-else" not in out


def test_list_of_an_empty_folder(tmp_path: Path) -> None:
    code, out, _ = invoke("list", "--folder", str(tmp_path / "none"))
    assert code == 0 and "no runs in" in out


@pytest.mark.parametrize("how", ["older", "results/runs/older"])
def test_show(runs: Path, how: str) -> None:
    code, out, err = invoke("show", how)
    assert code == 0, err
    assert "methods: dense, diffcr, uniform, tome, fbcache" in out and "CUDA out of memory" in out


def test_show_of_what_is_no_run(runs: Path) -> None:
    code, _, err = invoke("show", "oldr")
    assert code == 2 and "unknown run 'oldr': did you mean 'older'" in err
    code, _, err = invoke("show", "results/runs/something-else")
    assert code == 2 and "is no run folder" in err and len(err.splitlines()) == 1
