"""Folders that a command cannot write to, or that hold something damaged: one line, and nothing is written."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

DEEP = "[" * 100_000


def commands(model: str) -> dict[str, list[str]]:
    return {
        "run": ["run", "--model", model, "--methods", "tome", "--cases", "2"],
        "profile": ["profile", "--device", "meta", "--methods", "tome", "--ratios", "0.2"],
        "attribute": ["attribute", "uniform", "--model", model, "--cases", "2"],
        "fit": ["fit", "sensitivity", "--model", model],
        "train": ["train", "shapes", "--set", "vae_steps=1"],
        "maps": ["maps", "--model", model, "--methods", "tome"],
        "published": ["published", "table1"],
    }


@pytest.mark.parametrize("command", ["run", "profile", "fit", "train", "maps", "published"])
def test_an_output_folder_that_is_a_file(
    command: str, refused: Callable[..., str], tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    out = "file/out.md" if command == "published" else "file"
    assert "file" in refused(*commands(str(tiny_folder))[command], "--out", out)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["tables", "plots", "images"])
def test_a_run_folder_with_a_file_where_a_folder_belongs(
    name: str, refused: Callable[..., str], tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("mine")
    assert f"run/{name}: a file is where a folder belongs" in refused(
        *commands(str(tiny_folder))["run"], "--out", "run"
    )


@pytest.mark.parametrize("name", ["log.jsonl", "store.sqlite"])
def test_a_run_folder_with_a_folder_where_a_file_belongs(
    name: str, refused: Callable[..., str], tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "run" / name).mkdir(parents=True)
    assert f"run/{name}: a folder is where" in refused(*commands(str(tiny_folder))["run"], "--out", "run")


def test_damaged_stores(refused: Callable[..., str], tiny_folder: Path, tmp_path: Path) -> None:
    command = [*commands(str(tiny_folder))["run"], "--out", "run"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "store.sqlite").write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 20)
    assert "store.sqlite" in refused(*command)
    shutil.rmtree(tmp_path / "run")

    from results import Store

    Store(tmp_path / "run" / "store.sqlite").close()
    for workload in ("{", DEEP, "[]", "3"):
        with sqlite3.connect(tmp_path / "run" / "store.sqlite") as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('workload', ?)", (workload,))
        assert "run folder run is damaged" in refused(*command)
    with sqlite3.connect(tmp_path / "run" / "store.sqlite") as db:
        db.execute("DELETE FROM meta")
        db.execute("INSERT INTO record VALUES ('0123456789', 'ok', '', '{}')")
    assert "the record 0123456789 cannot be read" in refused(*command)


@pytest.mark.parametrize("text", ["{", DEEP, "3", "[3]", '[{"method": 3}]'])
def test_a_damaged_search_for_budgets(
    text: str, refused: Callable[..., str], tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "matched.json").write_text(text)
    command = [*commands(str(tiny_folder))["run"], "--out", "run", "--match", "gmacs=0.8"]
    assert "matched.json" in refused(*command)
