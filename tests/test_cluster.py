"""What runs points on other machines, without Ray: options, turns on a device, parcels, a worker in this process."""

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import command

import harness
from harness import config, plan
from harness.errors import UserError
from harness.executors import ray_cluster, shipping
from harness.executors.cluster import Cluster, of_options
from harness.executors.execute import Listener
from harness.executors.owner import Attempt, Owner
from harness.executors.ray_pool import _FIELDS, _room
from harness.executors.ray_worker import Done, News, Refused, Worker
from harness.executors.scratch import scratch
from harness.executors.shipping import Setup
from harness.executors.turns import Turns
from results.parcel import packed, unpacked
from results.run_folder import RunFolder

spawn = multiprocessing.get_context("fork")


@pytest.mark.parametrize(
    "options, said",
    [
        (["--workers", "0"], "--workers expects 1 or more, got 0"),
        (["--gpus-per-worker", "1.5"], "--gpus-per-worker expects a share of one GPU"),
        (["--gpus-per-worker", "nan"], "--gpus-per-worker expects a share of one GPU"),
        (["--gpus-per-worker", "1"], "goes with --device cuda"),
        (["--address", "nowhere"], "--address expects HOST:PORT"),
        (["--address", "ray://127.0.0.1:1"], "--address expects HOST:PORT"),
        (["--address", "127.0.0.1:1"], "no Ray cluster answers at 127.0.0.1:1"),
        (["--isolate"], "--isolate is of the local executor"),
        (["--executor", "local", "--workers", "2"], "--workers needs --executor ray"),
    ],
)
def test_options_that_are_no_good(
    options: list[str], said: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    if "--address" in options:
        pytest.importorskip("ray", reason="Ray is an extra: pip install '.[cluster]'")
    asked = ["run", "--model", str(tiny_folder), "--methods", "random", "--cases", "2", "--out", str(tmp_path / "run")]
    assert command(monkeypatch, *asked, "--executor", "ray", *options) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not (tmp_path / "run" / "store.sqlite").exists()


def test_devices_and_executors() -> None:
    assert (
        Cluster().gpus("cpu") == 0 and Cluster().gpus("cuda") == 1 and Cluster(gpus_per_worker=0.5).gpus("cuda") == 0.5
    )
    with pytest.raises(UserError, match="give --device cuda, not cuda:1"):
        Cluster().gpus("cuda:1")
    with pytest.raises(UserError, match="needs GPUs"):
        Cluster(gpus_per_worker=0).gpus("cuda")
    with pytest.raises(UserError, match="unknown executor 'slurm'"):
        of_options("slurm", None, None, None)
    assert of_options("local", None, None, None) is None


def test_room() -> None:
    assert _room({"CPU": 9.0}, None, 2, 0) == 4 and _room({"CPU": 9.0, "GPU": 2.0}, None, 2, 0.5) == 4
    assert _room({"CPU": 9.0, "GPU": 2.0}, 2, 2, 1) == 2
    with pytest.raises(UserError, match="3 workers of 2 processors.* and 1 GPUs do not fit"):
        _room({"CPU": 9.0, "GPU": 2.0}, 3, 2, 1)
    with pytest.raises(UserError, match="1 workers of 4 processors"):
        _room({"CPU": 2.0}, None, 4, 0)


def test_without_ray(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with (
        pytest.raises(UserError, match=r"needs Ray .*pip install 'dit-efficiency-harness\[cluster\]'"),
        ray_cluster.connected(None, 1, 0),
    ):
        pass  # fmt: skip


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_something_else_at_the_address(says: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "_OPEN_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

        def serve() -> None:
            with server.accept()[0] as connection:
                connection.sendall(says)
                time.sleep(2)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(UserError, match=f"nothing answers as a Ray cluster does at {address}"):
            ray_cluster._reach(address)
        thread.join()


# -- turns -----------------------------------------------------------------------------------------------------


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


# -- parcels and workers -----------------------------------------------------------------------------------------

PLUGIN = """
from contextlib import contextmanager
import harness
from harness.method import Method, RatioSettings
import methods.random_drop

@harness.methods.register("shipped")
class Shipped(methods.random_drop.RandomDrop):
    '''Of a file that only the driver has.'''
"""


@pytest.fixture(scope="module")
def made(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Setup, plan.Plan]:
    """A finished run, what a worker is handed to repeat it, and its plan."""
    before, out = torch.get_num_threads(), tmp_path_factory.mktemp("made") / "run"
    torch.set_num_threads(1)
    asked = {"model": str(tiny_folder), "cases": 2, "rounds": 2, "ratios": [0.2], "methods": "tome", "steps": 3,
             "metrics": "alignment,kid"}  # fmt: skip
    harness.run(**asked, out=out)  # type: ignore[arg-type]
    sweep = config.build(asked)
    (planned,) = plan.make(sweep)
    torch.set_num_threads(before)
    return out, Setup((planned.opened.workload,), sweep.shared(), (), os.getcwd(), False), planned


def test_a_worker_makes_what_this_process_makes(made: tuple[Path, Setup, plan.Plan], tmp_path: Path) -> None:
    path, setup, planned = made
    worker = Worker(setup)
    assert "process" in str(worker.open())
    dense, tome = ({name: getattr(point, name) for name in _FIELDS} for point in planned.points)
    with RunFolder.open(path) as folder, RunFolder.grow(tmp_path / "far", setup.shared) as far:
        theirs = folder.store.records()
        first = worker.run(0, dense)
        assert isinstance(first, Done) and first.exclusive_s > 0
        done = worker.run(0, tome, dense=first.parcel)
        assert isinstance(done, Done)
        assert first.parcel.record.references and not set(done.parcel.files) & set(first.parcel.files)
        for parcel in (first.parcel, done.parcel):
            unpacked(parcel, far)
        for one, other in zip(theirs, far.store.records(), strict=True):
            assert one.key == other.key and far.complete(other) and other.outcome == "ok"
            assert (folder.images(one) == far.images(other)).all()  # type: ignore[attr-defined]
            assert one.estimates["alignment"] == other.estimates["alignment"]
            assert set(one.estimates) - set(other.estimates) <= {"throughput_images_s"}
            assert "process" in other.environment["worker"] and one.hardware == other.hardware
        assert packed(far, other).files.keys() == set(other.files())
    news = worker.heard()
    assert news.work == 2 * planned.opened.work_per_point and news.what.startswith("tome")
    worker.close()


def test_a_worker_that_is_not_fit_says_how(made: tuple[Path, Setup, plan.Plan], tmp_path: Path) -> None:
    _, setup, planned = made
    (workload,) = setup.workloads

    def refusal(**changes: Any) -> str:
        worker = Worker(replace(setup, workloads=(replace(workload, **changes),)))
        found = worker.open()
        assert isinstance(found, Refused)
        return found.reason

    torch_here, numpy_here = workload.environment["torch"], workload.environment["numpy"]
    assert refusal(environment=workload.environment | {"torch": "1.0", "numpy": "absent"}) == (
        f"torch: 1.0 planned, {torch_here} here; numpy: absent planned, {numpy_here} here"
    )
    assert "hardware: Abacus planned" in refusal(made=workload.made | {"hardware": "Abacus"})
    assert "weights: 00000000 planned" in refusal(weights="00000000")
    assert "cases: " in refusal(compares=workload.compares | {"cases": "other"})
    assert "metric kid: 99 planned" in refusal(judged=workload.judged | {"metric kid": "99"})
    assert "does not exist" in refusal(request=workload.request | {"model": "/nowhere/model"})
    assert "prompts.txt" in refusal(request=workload.request | {"prompts": "/nowhere/prompts.txt"})

    worker = Worker(setup)
    assert isinstance(worker.open(), str)
    fields = {name: getattr(planned.points[1], name) for name in _FIELDS}
    other = worker.run(0, fields | {"source": "of another commit"})
    assert isinstance(other, Refused) and "the code of method 'tome' is another" in other.reason
    worker.close()


def test_plugins_go_by_their_content(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    (shipped,) = shipping.plugins_of([tmp_path / "mine.py"])
    (tmp_path / "mine.py").unlink()
    try:
        shipping.load([shipped], tmp_path / "there")
        assert "shipped" in harness.methods
    finally:
        harness.methods.forget("shipped")
    assert (tmp_path / "there" / shipped.digest / "mine.py").read_text() == PLUGIN
    with pytest.raises(UserError, match="mine.py cannot be read for the workers"):
        shipping.plugins_of([tmp_path / "mine.py"])


def test_news_are_silent_while_a_worker_is_alone(made: tuple[Path, Setup, plan.Plan]) -> None:
    worker = Worker(made[1])
    worker._progress("images", 2)
    worker._wait(True)
    assert worker.heard() == News("images", 2, True)
    worker._silent = True
    worker._progress("latency", 1)
    assert not worker._worth_telling()
    worker._wait(False)
    assert worker.heard() == News("latency", 1, False)


# -- the owner -----------------------------------------------------------------------------------------------------


class _Counts(Listener):
    """What is left of the bar, and what was said."""

    def __init__(self) -> None:
        self.work, self.outcomes, self.said = 0, [], []

    def progress(self, what: str, work: int) -> None:
        self.work += work

    def finished(self, record: Any) -> None:
        self.outcomes.append(record.outcome)

    def say(self, line: str) -> None:
        self.said.append(line)


def test_workers_that_die_and_a_dense_point_that_fails(made: tuple[Path, Setup, plan.Plan], tmp_path: Path) -> None:
    _, setup, planned = made
    hears = _Counts()
    with RunFolder.grow(tmp_path / "new", setup.shared) as folder:
        owner = Owner([(planned.opened, planned.points)], folder, hears, lambda parcel: parcel)
        for left in (2, 2, 0):  # tome, which is compared with dense, is given up with it
            task = owner.next()
            assert task is not None and task.point.method == "dense" and owner.next() is None
            assert owner.dense(task) is owner.known(task) is None
            attempt = Attempt(task)
            hears.progress("", 3)
            attempt.work = 3
            owner.died(attempt, "end of file")
            assert owner.left == left
        (record,) = folder.store.records()
    assert "ended 3 times while this point ran" in record.reason and record.reason.endswith("end of file")
    assert hears.outcomes == ["failed"] and len(hears.said) == 2 and owner.next() is None
    assert hears.work == planned.opened.work_per_point  # the tries that were lost are taken back


def test_what_is_there_goes_to_the_workers_with_its_files(made: tuple[Path, Setup, plan.Plan]) -> None:
    path, _, planned = made
    with RunFolder.open(path) as folder:
        owner = Owner([(planned.opened, planned.points[1:])], folder, _Counts(), lambda parcel: parcel)
        task = owner.next()
        assert task is not None and owner.left == 1
        dense, known = owner.dense(task), owner.known(task)
        assert (dense.record.method, known.record.method) == ("dense", "tome")
        assert owner.dense(task) is dense and set(known.files) == set(known.record.files())


def test_waiting_is_not_running() -> None:
    attempt = Attempt(None, began=100.0)  # type: ignore[arg-type]
    assert attempt.ran(107.0) == 7
    attempt.waits(110.0, True)
    attempt.waits(115.0, True)
    assert attempt.ran(150.0) == 10
    attempt.waits(160.0, False)
    attempt.waits(170.0, False)
    assert attempt.ran(175.0) == 25
