"""Points that run elsewhere, without Ray: parcels, a worker in this process, and the owner of the run."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import Counts

import harness
from harness import config, plan
from harness.errors import UserError
from harness.executors import shipping
from harness.executors.owner import Attempt, Owner
from harness.executors.ray_pool import _FIELDS
from harness.executors.ray_worker import Done, News, Refused, Worker
from harness.executors.shipping import Setup
from results.parcel import packed, unpacked
from results.run_folder import RunFolder

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
    assert "hardware: Abacus planned" in refusal(depends_on=workload.depends_on | {"hardware": "Abacus"})
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


def test_workers_that_die_and_a_dense_point_that_fails(made: tuple[Path, Setup, plan.Plan], tmp_path: Path) -> None:
    _, setup, planned = made
    hears = Counts()
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
        owner = Owner([(planned.opened, planned.points[1:])], folder, Counts(), lambda parcel: parcel)
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
