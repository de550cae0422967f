"""Points on the workers of a Ray cluster: workers are started, handed points, heard, replaced and ended. What is left
to run and what comes back is `harness.executors.owner`'s.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any

from harness import registry
from harness.engine import OpenWorkload
from harness.errors import UserError, first_line
from harness.executors import marks, ray_cluster
from harness.executors.cluster import Cluster
from harness.executors.owner import Attempt, Hears, Owner, Task
from harness.executors.ray_worker import Done, News, Refused, Unmade, Worker
from harness.executors.shipping import Setup, plugins_of
from harness.generation import Chunk
from harness.workload import Point
from results.run_folder import RunFolder

START_S = 600.0
"""How long the first worker may take to be ready: it loads the model, perhaps on a machine that has to be started."""
_LOOK_S = 0.5  # how often deadlines are looked at, and workers asked for news at most
_FIELDS = [one.name for one in fields(Point) if one.name != "workload"]


@dataclass(eq=False)
class _Member:
    """A worker, as it is seen from here. answer: what is awaited of it: that it is open, or a point. news: the same of
    its news, asked for at `asked`."""

    actor: Any
    answer: Any
    open: bool = False
    attempt: Attempt | None = None
    news: Any = None
    asked: float = 0.0


@contextmanager
def started(
    cluster: Cluster, opened: Sequence[OpenWorkload], shared: Mapping[str, Any], most: int, timeout: float | None,
    listener: Hears,
) -> Iterator[Pool]:  # fmt: skip
    """Workers, the first of them ready, while the context lasts. opened: the workloads of a run. most: as many
    workers as can have something to do. timeout: seconds after which a point is given up.

    Raises UserError for a cluster that cannot be reached, has no room, or none of whose workers is fit.
    """
    request = opened[0].workload.request
    threads, gpus = int(opened[0].workload.depends_on["threads"]), cluster.gpus(str(request["device"]))
    # more workers than this machine has processors for is the user's choice: they take turns in what is timed
    processors = max(_processors(), (cluster.workers or 1) * threads)
    with ray_cluster.connected(cluster.address, processors, _gpus_here() if gpus else 0) as ray:
        setup = Setup(
            workloads=tuple(one.workload for one in opened), shared=dict(shared), folder=os.getcwd(),
            plugins=plugins_of(registry.plugins()), own_device=gpus >= 1,
        )  # fmt: skip
        count = _room(ray.cluster_resources(), cluster.workers, threads, gpus)
        pool = Pool(ray, setup, min(count, max(1, most)), threads, gpus, timeout, listener)
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

    def open(self, workers: int = 1) -> None:
        """Wait for the first workers. Raises UserError where they do not become ready."""
        end = time.monotonic() + START_S
        while sum(member.open for member in self._members) < workers:
            self._look()
            if time.monotonic() > end:
                raise UserError(
                    f"no worker was ready within {START_S:.0f} s: `ray status` says what the cluster has and lacks"
                )

    def run(self, work: Sequence[tuple[OpenWorkload, Sequence[Point]]], folder: RunFolder) -> None:
        """Run these points of the workloads, in the order in which the pool was given these, and keep their records.
        Where dense fails, nothing that is compared with its images runs. Raises UserError where no worker is left."""
        owner = Owner(work, folder, self._hear, self._ray.put)
        while owner.left or any(member.attempt for member in self._members):  # some may make what is given up
            for member in self._idle():
                if (task := owner.next(len(self._members))) is None:
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
        return [member for member in self._members if member.open and member.attempt is None]

    def _kill(self, member: _Member) -> None:
        with suppress(Exception):
            self._ray.kill(member.actor)

    def _drop(self, member: _Member) -> None:
        self._kill(member)
        self._members.remove(member)

    def _begin(self, member: _Member, task: Task, owner: Owner) -> None:
        values = {name: getattr(task.point, name) for name in _FIELDS}
        if task.chunk is not None:
            member.answer = member.actor.make.remote(task.number, values, *task.chunk)
        else:
            member.answer = member.actor.run.remote(
                task.number, values, owner.dense(task), owner.known(task), *owner.made(task)
            )
        member.attempt = Attempt(task)

    def _look(self, owner: Owner | None = None) -> None:
        """Wait a moment for whatever comes, and see to it."""
        if not self._members:
            raise UserError(f"no worker is left: {'; '.join(dict.fromkeys(self._refusals))}. Finished points are kept")
        now = time.monotonic()
        for member in self._members:
            if member.attempt is not None and member.news is None and now - member.asked >= _LOOK_S:
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
            self._news(member) if one == member.news else self._answer(member, owner)
        self._give_up(owner)

    def _news(self, member: _Member) -> None:
        news, member.news = member.news, None
        with suppress(self._ray.exceptions.RayError):  # its death is told by its answer
            self._hear_of(member, self._ray.get(news))

    def _hear_of(self, member: _Member, news: News) -> None:
        if (attempt := member.attempt) is None:
            return
        attempt.waits(time.monotonic(), news.waits)
        attempt.work += news.work
        self._hear.progress(news.what or f"{attempt.task.point.label}: waits for its turn", news.work)

    def _answer(self, member: _Member, owner: Owner | None) -> None:
        """A worker is open or not fit, a point is done, or the worker died."""
        answer, member.answer = member.answer, None
        attempt, member.attempt = member.attempt, None
        try:
            found = self._ray.get(answer)
        except self._ray.exceptions.RayTaskError as error:  # raised by the worker, which goes on
            cause = error.cause if isinstance(error.cause, BaseException) else error
            reason = f"{type(cause).__name__}: {first_line(cause)}"
            if attempt is None or owner is None:
                self._refuse(member, reason)
            elif attempt.task.chunk is not None:
                owner.unmade(attempt, reason)
            else:
                owner.fail(attempt, reason, traceback=str(error))
        except self._ray.exceptions.RayError as error:
            self._died(member, attempt, owner, " ".join(str(error).split())[:300])
        else:
            if isinstance(found, Refused):
                self._refuse(member, found.reason)
                if attempt is not None and owner is not None:
                    owner.again(attempt)
            elif isinstance(found, Done) and attempt is not None and owner is not None:
                self.exclusive_s += found.exclusive_s
                owner.keep(attempt, found.parcel)
            elif isinstance(found, Chunk) and attempt is not None and owner is not None:
                owner.keep_chunk(attempt, found)
            elif isinstance(found, Unmade) and attempt is not None and owner is not None:
                owner.unmade(attempt, found.reason)
            else:
                member.open, self._deaths = True, 0

    def _refuse(self, member: _Member, reason: str) -> None:
        self._drop(member)
        self._refusals.append(reason)
        self._hear.say(f"a worker was refused: {reason}")

    def _died(self, member: _Member, attempt: Attempt | None, owner: Owner | None, cause: str) -> None:
        """Another worker takes its place, unless workers die before they are ready."""
        self._drop(member)
        if attempt is not None and owner is not None:
            owner.died(attempt, cause)
            if owner.left:
                self._add()
            return
        self._deaths += 1
        self._refusals.append(f"a worker ended before it was ready: {cause}")
        if self._deaths < marks.DEATHS:
            self._add()

    def _give_up(self, owner: Owner | None) -> None:
        """Points that have run too long, with their workers."""
        if self._timeout is None or owner is None:
            return
        now = time.monotonic()
        for member in list(self._members):
            if member.attempt is not None and owner.ran(member.attempt, now) > self._timeout:
                self._drop(member)
                owner.fail(member.attempt, f"the point took longer than {self._timeout:g} s (--point-timeout)")
                if owner.left:
                    self._add()


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
