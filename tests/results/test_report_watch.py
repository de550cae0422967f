"""A report that is drawn anew while its run goes on."""

import os
import shutil
import subprocess
import time
from pathlib import Path
from threading import Thread

import pytest
from report_page import Page
from report_runs import make_run
from support import command as main

from results.at_work import at_work, workers
from results.report.watch import RELOAD_S, Watch
from results.run_folder import RunFolder


def test_watching_draws_what_has_changed_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_run(tmp_path / "whole", methods=1, ratios=2, cases=8, maps=False)
    with RunFolder.open(whole) as found:
        records = found.records()
    folder, said = tmp_path / "mine", []
    with RunFolder.grow(folder, {"cases": 8}) as run, at_work(run.path):
        watched = Watch([folder], None, said.append)
        assert watched.draw(RELOAD_S) is None and said.pop() == "waiting for the first record"
        shutil.copytree(whole / "images", folder / "images", dirs_exist_ok=True)
        run.put(records[0])
        index = watched.draw(RELOAD_S)
        assert index == folder / "report" / "index.html" and said.pop().endswith(f"1 record: {index}")
        assert '<meta http-equiv="refresh" content="15">' in index.read_text()
        (folder / "images" / "of-a-point-being-made").mkdir()
        run.store.set_meta("note", "no record")
        assert watched.draw(RELOAD_S) == index and said == []
        run.put(records[1])
        picture = folder / records[0].images[0]
        for change in (lambda: None, picture.unlink):
            change()
            watched.draw(RELOAD_S)
            assert said.pop().endswith(f"2 records: {index}") and said == []
        run.put(records[2])
        assert workers(folder) == (1, 0)
        marks = list((folder / "running").iterdir())
        other = subprocess.Popen(["true"])
        other.wait()  # a process of the past
        marks[0].rename(marks[0].with_name(marks[0].name.replace(str(os.getpid()), str(other.pid))))
        assert workers(folder) == (0, 1)
        assert main(monkeypatch, "watch", str(folder)) == 0
    page = Page(index)
    assert [p["name"] for p in page.data["groups"][0]["points"]] == ["dense", "method0 33.3 %", "method0 66.7 %"]
    assert ("http-equiv", "refresh") not in page.attributes


def test_watching_ends_with_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunFolder.open(make_run(tmp_path / "whole", methods=1, ratios=1, cases=8, maps=False)) as found:
        records = found.records()

    def add() -> None:
        with RunFolder.grow(tmp_path / "mine", {}) as run, at_work(run.path):
            for record in records:
                run.put(record)
                time.sleep(0.3)

    RunFolder.grow(tmp_path / "mine", {}).close()
    adding = Thread(target=add)
    adding.start()
    while adding.is_alive() and not workers(tmp_path / "mine")[0]:
        time.sleep(0.01)
    said: list[str] = []
    index = Watch([tmp_path / "mine"], tmp_path / "out", said.append).follow(0.05)
    adding.join()
    assert index is not None and len(Page(index).data["groups"][0]["points"]) == 2
    assert "refresh" not in index.read_text()
    assert not (tmp_path / "mine" / "running").exists()
