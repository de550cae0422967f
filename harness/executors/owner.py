"""Who owns a run that others work for: which points are left, and the folder that what comes back is written to.

Each point is with one worker at a time and is kept once: its files, each whole or not at all, then its record in one
transaction. Dense goes first, the points that are compared with it in any order.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from harness.engine import OpenWorkload
from harness.executors import marks
from harness.workload import Point
from results.parcel import Parcel, packed, unpacked
from results.record import Record
from results.run_folder import RunFolder


class Hears(Protocol):
    """What `execute.Listener` has of this."""

    def progress(self, what: str, work: int) -> None: ...
    def finished(self, record: Record) -> None: ...
    def say(self, line: str) -> None: ...


@dataclass(frozen=True)
class Task:
    """A point of the workload of this number."""

    number: int
    point: Point


@dataclass
class Attempt:
    """A task that a worker has. work: images that it told of. waited: seconds in which it did not run, but waited for
    its turn; waits_since: when it began to, if it does."""

    task: Task
    began: float = field(default_factory=time.monotonic)
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    work: int = 0
    waited: float = 0.0
    waits_since: float | None = None

    def waits(self, now: float, does: bool) -> None:
        """Whether it waits from now on."""
        if does and self.waits_since is None:
            self.waits_since = now
        elif not does and self.waits_since is not None:
            self.waited, self.waits_since = self.waited + now - self.waits_since, None

    def ran(self, now: float) -> float:
        """Seconds."""
        return now - self.began - self.waited - (now - self.waits_since if self.waits_since is not None else 0.0)


class Owner:
    """work: points by workload. put: makes a parcel reachable for workers. left: how many points are neither kept nor
    given up."""

    def __init__(
        self,
        work: Sequence[tuple[OpenWorkload, Sequence[Point]]],
        folder: RunFolder,
        listener: Hears,
        put: Callable[[Parcel], Any],
    ) -> None:
        self._opened = [opened for opened, _ in work]
        self._folder, self._hear, self._put = folder, listener, put
        self._ready: deque[Task] = deque()
        self._held: dict[int, list[Task]] = {}  # until dense is done
        self._dense: dict[int, Any] = {}  # parcels that were put, by workload
        self._deaths: Counter[str] = Counter()
        self.left = 0
        for number, (_, points) in enumerate(work):
            dense = [Task(number, point) for point in points if not point.reference]
            others = [Task(number, point) for point in points if point.reference]
            if dense:
                self._held[number] = others
            self._ready.extend(dense or others)
            self.left += len(points)

    def next(self) -> Task | None:
        """A point to run; None: there is none, or none before another one is done."""
        return self._ready.popleft() if self._ready else None

    def dense(self, task: Task) -> Any:
        """The images that a point is compared with; None for dense itself."""
        if not task.point.reference:
            return None
        if task.number not in self._dense:
            self._dense[task.number] = self._parcel(self._folder.store.get(task.point.reference))
        return self._dense[task.number]

    def known(self, task: Task) -> Any:
        """Images and costs of this point, which are to be judged anew; None where there are none."""
        return self._parcel(self._folder.store.of_sample(task.point.sample_key))

    def _parcel(self, record: Record | None) -> Any:
        whole = record is not None and self._folder.complete(record)
        return self._put(packed(self._folder, record)) if record is not None and whole else None

    def keep(self, attempt: Attempt, parcel: Parcel) -> None:
        """A point has been run."""
        self._over(attempt, unpacked(parcel, self._folder))

    def fail(self, attempt: Attempt, reason: str, traceback: str = "") -> None:
        """A point has no figures."""
        task = attempt.task
        record = self._opened[task.number].record(
            task.point, outcome="failed", reason=reason, traceback=traceback, started=attempt.started,
            seconds=time.monotonic() - attempt.began,
        )  # fmt: skip
        self._folder.put(record)
        self._over(attempt, record)

    def died(self, attempt: Attempt, cause: str) -> None:
        """The worker ended: another one runs its point, but not for ever."""
        key, label = attempt.task.point.key, attempt.task.point.label
        self._deaths[key] += 1
        if self._deaths[key] < marks.DEATHS:
            self._hear.say(f"{label}: its worker ended; the point runs again on another one")
            self.again(attempt)
        else:
            why = f"the worker ended {marks.DEATHS} times while this point ran (perhaps because memory ran out)"
            self.fail(attempt, f"{why}: {cause}")

    def again(self, attempt: Attempt) -> None:
        """The point is another worker's."""
        self._hear.progress(attempt.task.point.label, -attempt.work)
        self._ready.appendleft(attempt.task)

    def _over(self, attempt: Attempt, record: Record) -> None:
        task = attempt.task
        marks.forget(self._folder.path, task.point.key)
        self._hear.progress(task.point.label, self._opened[task.number].work_per_point - attempt.work)
        self.left -= 1
        if not task.point.reference:
            held = self._held.pop(task.number, [])
            if record.usable:
                self._ready.extend(held)
            else:  # they have nothing to be compared with
                self.left -= len(held)
        self._hear.finished(record)
