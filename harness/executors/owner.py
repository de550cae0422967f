"""Who owns a run that others work for: which points are left, and the folder that what comes back is written to.

Each point is run by one worker at a time and is kept once: its files, each whole or not at all, then its record in one
transaction. Dense goes first, the points that are compared with it in any order. Where fewer points than workers are
left, images are made by several first (`splits`).
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from harness.engine import OpenWorkload
from harness.executors import marks, splits
from harness.executors.splits import Split
from harness.generation import Chunk
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
    """A point of the workload of this number. chunk: which part of its images, and of how many, where these alone are
    to be made."""

    number: int
    point: Point
    chunk: tuple[int, int] | None = None


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
    """work: points by workload. put: makes a parcel or images reachable for workers. left: how many points are neither
    kept nor given up."""

    def __init__(
        self,
        work: Sequence[tuple[OpenWorkload, Sequence[Point]]],
        folder: RunFolder,
        listener: Hears,
        put: Callable[[Any], Any],
    ) -> None:
        self._opened = [opened for opened, _ in work]
        self._folder, self._hear, self._put = folder, listener, put
        self._ready: deque[Task] = deque()
        self._first: deque[Task] = deque()  # chunks, and points whose images are made
        self._splits: dict[str, Split] = {}  # by the point's key, until it is kept
        self._held: dict[int, list[Task]] = {}  # until dense is done
        self._dense: dict[int, Any] = {}  # parcels that were put, by workload
        self._deaths: Counter[tuple[Any, ...]] = Counter()  # by the point's key and the chunk
        self.left = 0
        for number, (_, points) in enumerate(work):
            dense = [Task(number, point) for point in points if not point.reference]
            others = [Task(number, point) for point in points if point.reference]
            if dense:
                self._held[number] = others
            self._ready.extend(dense or others)
            self.left += len(points)

    def next(self, workers: int = 1) -> Task | None:
        """What is to be done next; None: nothing, or nothing before something else is done. workers: how many there
        are."""
        if self._first:
            return self._first.popleft()
        if not self._ready:
            return None
        task = self._ready.popleft()
        of = 1
        if len(self._ready) + 1 < workers and not self._judged_alone(task):
            of = splits.count(self._opened[task.number], task.point, workers)
        if of == 1:
            return task
        self._splits[task.point.key] = Split(of)
        self._first.extend(replace(task, chunk=(part, of)) for part in range(of))
        return self._first.popleft()

    def made(self, task: Task) -> list[Any]:
        """The images of a point that workers have made already."""
        split = self._splits.get(task.point.key)
        return split.made if split is not None else []

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

    def _judged_alone(self, task: Task) -> bool:
        record = self._folder.store.of_sample(task.point.sample_key)
        return record is not None and self._folder.complete(record)

    def _parcel(self, record: Record | None) -> Any:
        whole = record is not None and self._folder.complete(record)
        return self._put(packed(self._folder, record)) if record is not None and whole else None

    def ran(self, attempt: Attempt, now: float) -> float:
        """Seconds that a point has run, the chunks that are made included."""
        split = self._splits.get(attempt.task.point.key)
        return attempt.ran(now) + (split.ran if split is not None else 0.0)

    def keep(self, attempt: Attempt, parcel: Parcel) -> None:
        """A point has been run."""
        self._over(attempt, unpacked(parcel, self._folder))

    def keep_chunk(self, attempt: Attempt, chunk: Chunk) -> None:
        """Images of a point have been made."""
        if (split := self._split(attempt)) is None:
            return
        split.made.append(self._put(chunk))
        split.images += len(chunk.rows)
        split.ran += attempt.ran(time.monotonic())
        self._hear.progress(attempt.task.point.label, len(chunk.rows) - attempt.work)
        self._one_less(split, attempt.task)

    def unmade(self, attempt: Attempt, reason: str) -> None:
        """Images could not be made: the worker that runs the point makes what is missing, and fails as that does."""
        if (split := self._split(attempt)) is None:
            return
        label = attempt.task.point.label
        self._hear.say(f"{label}: some images could not be made ({reason}); the worker that runs the point tries again")
        self._hear.progress(label, -attempt.work)
        split.left -= self._forget_chunks(attempt.task)
        self._one_less(split, attempt.task)

    def _split(self, attempt: Attempt) -> Split | None:
        """The point that a chunk is of; None where it has been given up."""
        found = self._splits.get(attempt.task.point.key)
        if found is None:
            self._hear.progress(attempt.task.point.label, -attempt.work)
        return found

    def _one_less(self, split: Split, task: Task) -> None:
        split.left -= 1
        if not split.left:
            self._first.appendleft(replace(task, chunk=None))

    def _forget_chunks(self, task: Task) -> int:
        """Chunks of this point that nobody has begun are not made; how many these are."""
        kept = [one for one in self._first if one.point.key != task.point.key]
        forgotten = len(self._first) - len(kept)
        self._first = deque(kept)
        return forgotten

    def fail(self, attempt: Attempt, reason: str, traceback: str = "") -> None:
        """A point has no figures."""
        task = attempt.task
        if task.chunk is not None and self._split(attempt) is None:
            return
        record = self._opened[task.number].record(
            task.point, outcome="failed", reason=reason, traceback=traceback, started=attempt.started,
            seconds=time.monotonic() - attempt.began,
        )  # fmt: skip
        self._folder.put(record)
        self._over(attempt, record)

    def died(self, attempt: Attempt, cause: str) -> None:
        """The worker ended: another one does what it did, but not for ever."""
        task, label = attempt.task, attempt.task.point.label
        if task.chunk is not None and task.point.key not in self._splits:
            self.again(attempt)
            return
        self._deaths[what := (task.point.key, task.chunk)] += 1
        if self._deaths[what] < marks.DEATHS:
            next_is = "the point runs again on" if task.chunk is None else "its images are made again by"
            self._hear.say(f"{label}: its worker ended; {next_is} another one")
            self.again(attempt)
        else:
            why = f"the worker ended {marks.DEATHS} times while this point ran (perhaps because memory ran out)"
            self.fail(attempt, f"{why}: {cause}")

    def again(self, attempt: Attempt) -> None:
        """Another worker does what this one did."""
        task = attempt.task
        if task.chunk is not None and self._split(attempt) is None:
            return
        self._hear.progress(task.point.label, -attempt.work)
        (self._first if task.point.key in self._splits else self._ready).appendleft(task)

    def _over(self, attempt: Attempt, record: Record) -> None:
        task = attempt.task
        marks.forget(self._folder.path, task.point.key)
        if (split := self._splits.pop(task.point.key, None)) is not None:
            self._forget_chunks(task)
        known = attempt.work + (split.images if split is not None else 0)
        self._hear.progress(task.point.label, self._opened[task.number].work_per_point - known)
        self.left -= 1
        if not task.point.reference:
            held = self._held.pop(task.number, [])
            if record.usable:
                self._ready.extend(held)
            else:  # they have nothing to be compared with
                self.left -= len(held)
        self._hear.finished(record)
