"""Points whose images several workers make, without Ray: the same images as one process makes, and what becomes of
chunks whose workers die or fail."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import Counts

import harness
from harness import config, generation, plan
from harness.executors import splits
from harness.executors.execute import Listener
from harness.executors.owner import Attempt, Owner, Task
from harness.executors.ray_pool import _FIELDS
from harness.executors.ray_worker import Done, Unmade, Worker
from harness.executors.shipping import Setup
from harness.generation import Chunk
from results.run_folder import RunFolder

CASES = 5


def nothing(_what: str, _work: int) -> None:
    pass


@pytest.fixture(scope="module")
def asked(tiny_folder: Path) -> dict[str, Any]:
    return {"model": str(tiny_folder), "cases": CASES, "batch": 1, "rounds": 2, "ratios": [0.2], "methods": "tome",
            "steps": 3, "metrics": "alignment"}  # fmt: skip


@pytest.fixture(scope="module")
def planned(asked: dict[str, Any]) -> plan.Plan:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    (found,) = plan.make(config.build(asked))
    torch.set_num_threads(before)
    return found


def test_chunks_make_the_images_of_the_whole(asked: dict[str, Any]) -> None:
    """In batches of two, of which the last is short, and one by one with the products of each."""
    torch.set_num_threads(1)
    (planned,) = plan.make(config.build(asked | {"methods": "tome,fbcache", "batch": 2, "steps": 6}))
    opened = planned.opened
    for point in planned.points[1:]:
        method = opened.method(point)
        (whole,) = opened.generate(method, None, nothing)
        images, spent = generation.joined([whole], CASES)
        chunks = [opened.chunk(point, number, 2, nothing) for number in range(2)]
        assert sorted(chunks[0].rows + chunks[1].rows) == list(range(CASES)) and all(one.rows for one in chunks)
        for made in (chunks, chunks[1:], chunks[:1]):  # what is missing is made
            every = opened.generate(method, None, nothing, made)
            assert [len(one.rows) for one in every[: len(made)]] == [len(one.rows) for one in made]
            again, spent_again = generation.joined(every, CASES)
            assert np.array_equal(images, again) and spent == spent_again
        assert (len(spent) == CASES) == method.adaptive == (point.method == "fbcache")
    assert not opened.chunk(planned.points[0], 0, 7, nothing).rows  # more parts than batches
    parts = [generation.part([[0, 3], [1, 4], [2]], number, 7) for number in range(7)]
    assert sum(parts, []) == [[0, 3], [1, 4], [2]]


def test_throughput_leaves_out_the_first_batch_of_every_chunk() -> None:
    def chunk(rows: int, *seconds: float, spent: tuple[float, ...] = ()) -> Chunk:
        return Chunk(tuple(range(rows)), np.zeros((rows, 1, 1, 3), np.uint8), seconds, spent)

    whole = chunk(7, 60.0, 2.0, 2.0, 0.1)
    assert generation.throughput([whole], 2) == {}  # the short batch at the end does not count
    found = generation.throughput([whole, chunk(4, 60.0, 2.0)], 2)["throughput_images_s"]
    assert (found.value, found.n) == (1.0, 3) and "2 parts on several workers" in found.convention
    assert generation.throughput([chunk(5, *[1.0] * 5, spent=(1.0,) * 5)], 1) == {}


def test_what_is_split(planned: plan.Plan, asked: dict[str, Any], tmp_path: Path) -> None:
    opened, (dense, tome) = planned.opened, planned.points
    assert splits.count(opened, dense, 1) == 1
    assert splits.count(opened, dense, 2) == splits.count(opened, dense, 64) == 2  # five batches, two in each at least
    assert splits.room([(opened, planned.points)]) == 4
    (other,) = plan.make(config.build(asked | {"methods": "fbcache,compile", "batch": 16, "steps": 6}))
    found = {point.method: splits.count(other.opened, point, 2) for point in other.points}
    assert found == {"dense": 1, "fbcache": 2, "compile": 1}  # one batch; one by one; slow to attach
    with RunFolder.grow(tmp_path / "run", {}) as folder:
        owner = Owner([(opened, [tome] * 3)], folder, Listener(), lambda parcel: parcel)
        assert [(task.chunk if task else None) for task in (owner.next(2) for _ in range(5))] == [
            None, None, (0, 2), (1, 2), None
        ]  # fmt: skip


def test_a_run_in_chunks_is_the_run_of_one_process(
    asked: dict[str, Any], planned: plan.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker plays three: a chunk of dense is lost with its worker, one of tome fails."""
    torch.set_num_threads(1)
    here = harness.run(**asked, out=tmp_path / "here" / "run")
    shared = config.build(asked).shared()
    worker = Worker(Setup((planned.opened.workload,), shared, (), os.getcwd(), False))
    assert isinstance(worker.open(), str)
    hears, done = Counts(), []
    with RunFolder.grow(tmp_path / "there" / "run", shared) as folder:
        owner = Owner([(planned.opened, planned.points)], folder, hears, lambda parcel: parcel)
        while owner.left:
            task = owner.next(3)
            assert task is not None
            attempt, point = Attempt(task), task.point
            done.append((point.method, task.chunk))
            values = {name: getattr(point, name) for name in _FIELDS}
            if task.chunk is None:
                made = worker.run(0, values, owner.dense(task), owner.known(task), *owner.made(task))
                assert isinstance(made, Done)
                owner.keep(attempt, made.parcel)
            elif done.count(("dense", (1, 2))) == 1 and task.chunk == (1, 2):
                owner.died(attempt, "end of file")
            elif done[-1] == ("tome", (1, 2)):
                monkeypatch.setattr(type(planned.opened), "chunk", _ends)
                made = worker.make(0, values, *task.chunk)
                assert made == Unmade("SystemExit: it ends")
                owner.unmade(attempt, made.reason)
            else:
                made = worker.make(0, values, *task.chunk)
                assert isinstance(made, Chunk) and made.worker
                owner.keep_chunk(attempt, made)
    worker.close()
    chunks = [("dense", (0, 2)), ("dense", (1, 2)), ("dense", (1, 2)), ("dense", None)]
    assert done == [*chunks, ("tome", (0, 2)), ("tome", (1, 2)), ("tome", None)]
    assert [line.partition("; ")[2] for line in hears.said] == [
        "its images are made again by another one", "the worker that runs the point tries again"
    ]  # fmt: skip
    assert hears.work == 2 * planned.opened.work_per_point and hears.outcomes == ["ok", "ok"]
    there = harness.open_run(tmp_path / "there" / "run")
    for one, other in zip(here.records, there.records, strict=True):
        assert one.key == other.key and np.array_equal(here.images(one), there.images(other))
        for name in ("gmacs", "alignment"):
            assert one.estimates[name] == other.estimates[name]
        assert "process" in other.environment["image_workers"]


def _ends(*_args: object) -> None:
    raise SystemExit("it ends")


def test_a_point_given_up_takes_its_chunks_along(planned: plan.Plan, tmp_path: Path) -> None:
    hears = Counts()
    with RunFolder.grow(tmp_path / "run", {}) as folder:
        owner = Owner([(planned.opened, planned.points)], folder, hears, lambda parcel: parcel)

        def begun(work: int) -> Attempt:
            task = owner.next(9)
            assert task is not None and task.chunk is not None
            hears.progress("", work)
            return Attempt(task, work=work)

        dies, late = begun(3), begun(2)
        assert owner.next(9) is None
        for _ in range(2):
            owner.died(dies, "end of file")
            dies = begun(1)
        assert dies.task.chunk == (0, 2) and owner.left == 2
        owner.died(dies, "end of file")
        assert owner.left == 0 and owner.next(9) is None
        rows = np.zeros((3, 1, 1, 3), np.uint8)
        owner.keep_chunk(late, Chunk((2, 3, 4), rows, (1.0,) * 3))  # too late
        for ends in (lambda: owner.died(late, ""), lambda: owner.unmade(late, ""), lambda: owner.fail(late, "")):
            hears.progress("", 2)
            ends()
        (record,) = folder.store.records()
        assert "ended 3 times while this point ran" in record.reason and hears.outcomes == ["failed"]
        assert hears.work == planned.opened.work_per_point and owner.next(9) is None


def test_a_point_s_time_is_that_of_all_its_chunks(planned: plan.Plan, tmp_path: Path) -> None:
    with RunFolder.grow(tmp_path / "run", {}) as folder:
        owner = Owner([(planned.opened, planned.points)], folder, Listener(), lambda parcel: parcel)
        for number in range(2):
            task = owner.next(2)
            assert task == Task(0, planned.points[0], (number, 2))
            attempt = Attempt(task)
            attempt.began -= 100
            owner.keep_chunk(attempt, Chunk((number,), np.zeros((1, 1, 1, 3), np.uint8), (1.0,)))
        whole = owner.next(2)
        assert whole is not None and whole.chunk is None and len(owner.made(whole)) == 2
        attempt = Attempt(whole)
        assert 207 <= owner.ran(attempt, attempt.began + 7) < 230
