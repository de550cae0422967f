"""Points on the workers of a Ray cluster. This process, the owner, hands them out and writes what comes back: files and
one record in one transaction for each point. Dense goes first, the points that are compared with it in any order.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from types import ModuleType
from typing import Any, Protocol

from harness import registry
from harness.engine import OpenWorkload
from harness.errors import UserError, first_line
from harness.executors import marks, ray_cluster
from harness.executors.cluster import Cluster
from harness.executors.ray_worker import Done, News, Refused, Worker
from harness.executors.shipping import Setup, plugins_of
from harness.spec import Progress
from harness.workload import Point
from results.parcel import packed, unpacked
from results.record import Record
from results.run_folder import RunFolder

START_S = 600.0
"""How long the first worker may take to be ready: it loads the model, perhaps on a machine that has to be started."""
_LOOK_S = 0.5  # how often deadlines are looked at, and workers asked for news at most
_FIELDS = [one.name for one in fields(Point) if one.name != "workload"]


class Hears(Protocol):
    """What `execute.Listener` has of this."""

    def progress(self, what: str, work: int) -> None: ...
    def finished(self, record: Record) -> None: ...
    def say(self, line: str) -> None: ...


@dataclass(frozen=True)
class _Task:
    number: int  # of the workload
    point: Point


@dataclass(eq=False)
class _Member:
    """A worker as the owner sees it. answer: what is awaited of it: that it is open, or a point. news: the same of its
    news. work: images of its point that were told. waited: seconds that its point has not run, but waited."""

    actor: Any
    answer: Any
    open: bool = False
    task: _Task | None = None
    news: Any = None
    asked: float = 0.0
    began: float = 0.0
    started: str = ""
    work: int = 0
    waited: float = 0.0
    waits_since: float | None = None

    def ran(self, now: float) -> float:
        """Seconds that its point has run."""
        return now - self.began - self.waited - (now - self.waits_since if self.waits_since is not None else 0.0)


@contextmanager
def started(
    cluster: Cluster, opened: Sequence[OpenWorkload], shared: Mapping[str, Any], points: int, timeout: float | None,
    listener: Hears,
) -> Iterator[Pool]:  # fmt: skip
    """Workers, the first of them ready, while the context lasts. opened: the workloads of a run. points: how many are
    to run. timeout: seconds after which a point is given up.

    Raises UserError for a cluster that cannot be reached, has no room, or none of whose workers is fit.
    """
    request = opened[0].workload.request
    threads, gpus = int(opened[0].workload.made["threads"]), cluster.gpus(str(request["device"]))
    # more workers than this machine has processors for is the user's choice: they take turns in what is timed
    processors = max(len(os.sched_getaffinity(0)), (cluster.workers or 1) * threads)
    with ray_cluster.connected(cluster.address, processors, _gpus_here() if gpus else 0) as ray:
        setup = Setup(
            workloads=tuple(one.workload for one in opened), shared=dict(shared), folder=os.getcwd(),
            plugins=plugins_of(registry.plugins()), own_device=gpus >= 1,
        )  # fmt: skip
        count = _room(ray.cluster_resources(), cluster.workers, threads, gpus)
        pool = Pool(ray, setup, min(count, max(1, points)), threads, gpus, timeout, listener)
        try:
            pool.open()
            yield pool
        finally:
            pool.close()


class Pool:
    """exclusive_s: seconds in which some worker measured alone, all together."""

    def __init__(
        self, ray: ModuleType, setup: Setup, workers: int, threads: int, gpus: float, timeout: float | None,
        listener: Hears,
    ) -> None:  # fmt: skip
        self.exclusive_s = 0.0
        self._ray, self._timeout, self._hear = ray, timeout, listener
        self._remote = ray.remote(Worker).options(
            num_cpus=threads, num_gpus=gpus, max_concurrency=2, max_restarts=0, max_task_retries=0
        )
        self._setup = ray.put(setup)
        self._members: list[_Member] = []
        self._refusals: list[str] = []
        self._deaths = 0  # of workers that were not open yet
        for _ in range(workers):
            self._add()

    def open(self) -> None:
        """Wait for the first worker. Raises UserError where none becomes ready."""
        end = time.monotonic() + START_S
        while not any(member.open for member in self._members):
            self._look()
            if time.monotonic() > end:
                raise UserError(
                    f"no worker was ready within {START_S:.0f} s: `ray status` says what the cluster has and lacks"
                )

    def run(self, work: Sequence[tuple[OpenWorkload, Sequence[Point]]], folder: RunFolder) -> None:
        """Run these points of the workloads, in the order in which the pool was given these, and keep their records.
        Where dense fails, nothing that is compared with its images runs. Raises UserError where no worker is left."""
        owner = _Owner(self, [opened for opened, _ in work], folder)
        owner.add([points for _, points in work])
        while owner.left:
            for member in self._idle():
                if (task := owner.next()) is None:
                    break
                self._begin(member, task, owner)
            self._look(owner)

    def close(self) -> None:
        idle = self._idle()
        with suppress(Exception):
            self._ray.get([member.actor.close.remote() for member in idle], timeout=10)
        for member in self._members:
            self._kill(member)
        self._members.clear()

    # -- workers ---------------------------------------------------------------------------------------------

    def _add(self) -> None:
        actor = self._remote.remote(self._setup)
        self._members.append(_Member(actor, actor.open.remote()))

    def _idle(self) -> list[_Member]:
        return [member for member in self._members if member.open and member.task is None]

    def _kill(self, member: _Member) -> None:
        with suppress(Exception):
            self._ray.kill(member.actor)

    def _drop(self, member: _Member) -> None:
        self._kill(member)
        self._members.remove(member)

    def _begin(self, member: _Member, task: _Task, owner: _Owner) -> None:
        values = {name: getattr(task.point, name) for name in _FIELDS}
        member.answer = member.actor.run.remote(task.number, values, owner.dense(task), owner.known(task))
        member.task, member.began, member.work = task, time.monotonic(), 0
        member.waited, member.waits_since = 0.0, None
        member.started = datetime.now(UTC).isoformat(timespec="seconds")

    def _look(self, owner: _Owner | None = None) -> None:
        """Wait a moment for whatever comes, and see to it."""
        if not self._members:
            raise UserError(f"no worker is left: {'; '.join(dict.fromkeys(self._refusals))}. Finished points are kept")
        now = time.monotonic()
        for member in self._members:
            if member.task is not None and member.news is None and now - member.asked >= _LOOK_S:
                member.news, member.asked = member.actor.heard.remote(), now
        waited = {member.answer: member for member in self._members if member.answer is not None}
        waited |= {member.news: member for member in self._members if member.news is not None}
        ready, _ = self._ray.wait(list(waited), num_returns=len(waited), timeout=0) if waited else ([], [])
        if not ready and waited:
            ready, _ = self._ray.wait(list(waited), num_returns=1, timeout=_LOOK_S)
        for one in ready:
            member = waited[one]
            if member not in self._members:
                continue
            self._news(member) if one is member.news else self._answer(member, owner)
        self._give_up(owner)

    def _news(self, member: _Member) -> None:
        news, member.news = member.news, None
        with suppress(self._ray.exceptions.RayError):  # its death is told by its answer
            self._hear_of(member, self._ray.get(news))

    def _hear_of(self, member: _Member, news: News) -> None:
        if member.task is None:
            return
        now = time.monotonic()
        if news.waits and member.waits_since is None:
            member.waits_since = now
        elif not news.waits and member.waits_since is not None:
            member.waited += now - member.waits_since
            member.waits_since = None
        member.work += news.work
        self._hear.progress(news.what or f"{member.task.point.label}: waits for its turn", news.work)

    def _answer(self, member: _Member, owner: _Owner | None) -> None:
        """A worker is open or not fit, a point is done, or the worker died."""
        answer, member.answer = member.answer, None
        task, member.task = member.task, None
        try:
            found = self._ray.get(answer)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, BaseException) else error
            reason = f"{type(cause).__name__}: {first_line(cause)}"
            if task is None or owner is None:
                found = Refused(reason)
            else:
                owner.fail(task, reason, member, traceback=str(error))
                return
        except self._ray.exceptions.RayError as error:
            self._died(member, task, owner, error)
            return
        if isinstance(found, Refused):
            self._refuse(member, task, owner, found.reason)
        elif task is None:
            member.open, self._deaths = True, 0
        elif owner is not None:
            self.exclusive_s += found.exclusive_s
            owner.keep(task, found, member)

    def _refuse(self, member: _Member, task: _Task | None, owner: _Owner | None, reason: str) -> None:
        self._drop(member)
        self._refusals.append(reason)
        self._hear.say(f"a worker was refused: {reason}")
        if task is not None and owner is not None:
            owner.again(task, member)

    def _died(self, member: _Member, task: _Task | None, owner: _Owner | None, error: Exception) -> None:
        """Its point goes to another worker, but not for ever; a worker takes its place."""
        self._drop(member)
        told = " ".join(str(error).split())[:300]
        if task is None or owner is None:
            self._deaths += 1
            self._refusals.append(f"a worker ended before it was ready: {told}")
            if self._deaths < marks.DEATHS:
                self._add()
            return
        self._hear.say(f"{task.point.label}: its worker ended; the point runs again on another one")
        owner.died(task, member, told)
        self._add()

    def _give_up(self, owner: _Owner | None) -> None:
        """Points that have run too long, with their workers."""
        if self._timeout is None or owner is None:
            return
        now = time.monotonic()
        for member in list(self._members):
            if member.task is not None and member.ran(now) > self._timeout:
                self._drop(member)
                owner.fail(member.task, f"the point took longer than {self._timeout:g} s (--point-timeout)", member)
                self._add()


class _Owner:
    """The points that are left, and the folder that they go to. left: how many are neither done nor given up."""

    def __init__(self, pool: Pool, opened: Sequence[OpenWorkload], folder: RunFolder) -> None:
        self._pool, self._opened, self._folder = pool, opened, folder
        self._ready: deque[_Task] = deque()
        self._held: dict[int, list[_Task]] = {}  # until dense is done
        self._dense: dict[int, Any] = {}  # references to parcels, by workload
        self._deaths: Counter[str] = Counter()
        self.left = 0

    def add(self, work: Sequence[Sequence[Point]]) -> None:
        for number, points in enumerate(work):
            dense = [_Task(number, point) for point in points if not point.reference]
            others = [_Task(number, point) for point in points if point.reference]
            if dense:
                self._held[number] = others
            self._ready.extend(dense or others)
            self.left += len(points)

    def next(self) -> _Task | None:
        return self._ready.popleft() if self._ready else None

    def dense(self, task: _Task) -> Any:
        """The images that a point is compared with."""
        if not task.point.reference:
            return None
        if task.number not in self._dense:
            record = self._folder.store.get(task.point.reference)
            self._dense[task.number] = None if record is None else self._put(record)
        return self._dense[task.number]

    def known(self, task: _Task) -> Any:
        """Images and costs of this point that are to be judged anew."""
        record = self._folder.store.of_sample(task.point.sample_key)
        return None if record is None else self._put(record)

    def _put(self, record: Record) -> Any:
        return self._pool._ray.put(packed(self._folder, record)) if self._folder.complete(record) else None

    def keep(self, task: _Task, done: Done, member: _Member) -> None:
        self._over(task, unpacked(done.parcel, self._folder), member)

    def fail(self, task: _Task, reason: str, member: _Member, traceback: str = "") -> None:
        record = self._opened[task.number].record(
            task.point, outcome="failed", reason=reason, traceback=traceback, started=member.started,
            seconds=time.monotonic() - member.began,
        )  # fmt: skip
        self._folder.put(record)
        self._over(task, record, member)

    def died(self, task: _Task, member: _Member, told: str) -> None:
        self._deaths[task.point.key] += 1
        if self._deaths[task.point.key] < marks.DEATHS:
            self.again(task, member)
            return
        why = f"the worker ended {marks.DEATHS} times while this point ran (perhaps because memory ran out): {told}"
        self.fail(task, why, member)

    def again(self, task: _Task, member: _Member) -> None:
        self._progress(task.point.label, -member.work)
        self._ready.appendleft(task)

    def _over(self, task: _Task, record: Record, member: _Member) -> None:
        opened = self._opened[task.number]
        marks.forget(self._folder.path, task.point.key)
        self._progress(task.point.label, opened.work_per_point - member.work)
        self.left -= 1
        held = self._held.pop(task.number, []) if not task.point.reference else []
        if record.usable:
            self._ready.extend(held)
        else:
            self.left -= len(held)
        self._pool._hear.finished(record)

    @property
    def _progress(self) -> Progress:
        return self._pool._hear.progress


def _gpus_here() -> int:
    import torch

    return torch.cuda.device_count()


def _room(resources: Mapping[str, float], asked: int | None, threads: int, gpus: float) -> int:
    """How many workers there are to be. Raises UserError where the cluster has no room for them."""
    cpus, cards = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    room = int(min(cpus // threads, cards / gpus if gpus else cpus // threads))
    if room < (asked or 1):
        each = f"{threads} processors (OMP_NUM_THREADS)" + (f" and {gpus:g} GPUs" if gpus else "")
        raise UserError(
            f"{asked or 1} workers of {each} do not fit into the cluster, which has {cpus:g} processors and {cards:g} "
            "GPUs: give fewer --workers or threads, or a larger cluster"
        )
    return asked or room
