"""Processes that share a device and a place to work in: turns, and what a killed one leaves."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from harness.executors.scratch import scratch
from harness.executors.turns import Turns

spawn = multiprocessing.get_context("fork")


def _shares(folder: Path, log: Path, until: Path) -> None:
    turns = Turns("cpu", folder=folder)
    with turns.among_others():
        while not until.exists():
            with open(log, "a") as handle:
                handle.write("shared\n")
            time.sleep(0.002)
            turns.pause()


def _dies_alone(folder: Path, log: Path, until: Path) -> None:
    turns = Turns("cpu", folder=folder)
    with turns.among_others(), turns.alone():
        log.write_text("alone")
        time.sleep(1000)


def test_one_alone_among_two_that_work(tmp_path: Path) -> None:
    log, until = tmp_path / "log", tmp_path / "until"
    others = [spawn.Process(target=_shares, args=(tmp_path / "turns", log, until)) for _ in range(2)]
    for one in others:
        one.start()
    waits: list[bool] = []
    turns = Turns("cpu", waits.append, folder=tmp_path / "turns")
    try:
        with turns.among_others():
            _until(lambda: log.exists() and log.stat().st_size > 100)
            for _ in range(5):
                with turns.alone():
                    turns.pause()  # lets nobody in
                    before = log.stat().st_size
                    time.sleep(0.05)
                    assert log.stat().st_size == before
                _until(lambda: log.stat().st_size > before)  # they go on afterwards  # noqa: B023
    finally:
        until.touch()
        for one in others:
            one.join(30)
    assert [one.exitcode for one in others] == [0, 0]
    assert turns.exclusive_s >= 0.25 and waits[:2] == [True, False] and waits.count(True) == waits.count(False)


def test_a_killed_one_gives_its_turn_back(tmp_path: Path) -> None:
    dies = spawn.Process(target=_dies_alone, args=(tmp_path / "turns", tmp_path / "log", tmp_path))
    dies.start()
    _until((tmp_path / "log").exists)
    os.kill(dies.pid or 0, signal.SIGKILL)
    dies.join()
    turns = Turns("cpu", folder=tmp_path / "turns")
    with turns.among_others(), turns.alone():
        assert turns.exclusive_s == 0


def test_what_a_killed_worker_wrote_is_removed_by_the_next(tmp_path: Path) -> None:
    def dies() -> None:
        with scratch(tmp_path) as folder:
            (folder / "image.png").write_bytes(b"0")
            os.kill(os.getpid(), signal.SIGKILL)

    one = spawn.Process(target=dies)
    one.start()
    one.join()
    assert len(list(tmp_path.glob("*/image.png"))) == 1
    with scratch(tmp_path) as mine, scratch(tmp_path) as another:
        assert sorted(tmp_path.iterdir()) == sorted([mine, another])
    assert not list(tmp_path.iterdir())


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)
