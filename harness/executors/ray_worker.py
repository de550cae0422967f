"""A worker of a cluster: opens the workloads of a run once, with one model, and runs points in a run folder of its own.

An actor of Ray, though nothing here imports Ray: `run` does the work, `heard` answers from a second thread.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from harness import plan
from harness.engine import OpenWorkload
from harness.errors import UserError, first_line
from harness.executors import shipping, worker
from harness.executors.scratch import scratch
from harness.executors.shipping import Setup
from harness.executors.turns import Turns
from harness.generation import Chunk
from harness.measure import environment
from harness.models import Model
from harness.sweep import Sweep, validated
from harness.workload import Point
from results.parcel import Parcel, packed, unpacked
from results.run_folder import RunFolder
from results.store import StoreError


@dataclass(frozen=True)
class News:
    """What a worker is doing. work: images made since it was last heard. waits: whether it waits for its turn."""

    what: str = ""
    work: int = 0
    waits: bool = False


@dataclass(frozen=True)
class Done:
    """A point that was run. exclusive_s: seconds in which its worker was alone on the device."""

    parcel: Parcel
    exclusive_s: float


@dataclass(frozen=True)
class Refused:
    """A worker that is not fit for a run. reason: what differs from what was planned."""

    reason: str


@dataclass(frozen=True)
class Unmade:
    """A chunk that could not be made; whoever runs the point will see why."""

    reason: str


class Worker:
    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._name = f"{socket.gethostname()}, process {os.getpid()}"
        self._news, self._changed = News(), threading.Condition()
        self._silent, self._told_waits = False, False
        self._opened: list[OpenWorkload] = []
        self._scratch = scratch()
        self._place = self._scratch.__enter__()
        self._turns: Turns | None = None

    def open(self) -> str | Refused:
        """Load the model and see that everything is as it was planned. Returns the worker's name."""
        try:
            different = self._open()
        except UserError as error:
            different = [str(error)]
        return Refused("; ".join(different)) if different else self._name

    def _open(self) -> list[str]:
        first = self._setup.workloads[0]
        if os.path.isdir(self._setup.folder):
            os.chdir(self._setup.folder)
        torch.set_num_threads(int(first.depends_on["threads"]))
        device = torch.device(first.request["device"])
        if device.type == "cuda" and not torch.cuda.is_available():
            return ["there is no CUDA device"]
        here = environment.describe(device)
        if different := environment.other_libraries(first.environment, here):
            return different
        shipping.load(self._setup.plugins, self._place / "plugins")
        if not self._setup.own_device:
            self._turns = Turns(_device_name(device), self._wait)
        with self._turns.among_others() if self._turns else nullcontext():
            model: Model | None = None
            for workload in self._setup.workloads:
                request = {name: value for name, value in workload.request.items() if name != "kind"}
                sweep: Sweep = validated(Sweep, request)
                model = model or plan.load_model(sweep)
                opened = plan.reopen(sweep, workload, model)
                different += plan.differences(sweep, opened)
                own = replace(workload, environment=here | {"worker": self._name})
                turns = self._turns
                self._opened.append(replace(opened, workload=own, exclusive=self._exclusive if turns else None))
            if not different:
                self._opened[0].load()
        RunFolder.grow(self._place / "run", self._setup.shared).close()
        return list(dict.fromkeys(different))

    def run(
        self, number: int, fields: dict[str, Any], dense: Parcel | None = None, known: Parcel | None = None,
        *made: Chunk,
    ) -> Done | Refused:  # fmt: skip
        """Run a point of the workload of this number. fields: of the point, but for its workload. dense: what it is
        compared with. known: its images and costs, where they are to be judged anew. made: images that workers have
        made."""
        try:
            return self._run(number, fields, dense, known, made)
        except (StoreError, OSError) as error:  # a full disk of this machine's, say; the point is another's then
            if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise
            return Refused(f"{self._name}: {first_line(error)}")

    def _run(
        self, number: int, fields: dict[str, Any], dense: Parcel | None, known: Parcel | None, made: Sequence[Chunk]
    ) -> Done | Refused:
        opened, point = self._point(number, fields)
        if reason := _not_here(opened, point):
            return Refused(reason)
        before = self._turns.exclusive_s if self._turns else 0.0
        with (
            self._turns.among_others() if self._turns else nullcontext(),
            RunFolder.reach(self._place / "run") as folder,  # anew each time: points come on several threads
        ):
            for parcel in (dense, known):
                if parcel is not None and folder.store.get(parcel.record.key) is None:
                    unpacked(parcel, folder)
            record = worker.record_of(opened, point, folder, self._progress, tuple(made))
            if made:
                names = ", ".join(sorted({chunk.worker for chunk in made}))
                record = record.model_copy(update={"environment": record.environment | {"image_workers": names}})
            parcel = packed(folder, record, without=dense.files if dense is not None else ())
            if point.reference:
                shutil.rmtree(folder.path / "images" / point.sample_key, ignore_errors=True)
        return Done(parcel, (self._turns.exclusive_s if self._turns else 0.0) - before)

    def make(self, number: int, fields: dict[str, Any], part: int, of: int) -> Chunk | Unmade | Refused:
        """Make a chunk of a point's images: part `part`, from 0, of `of`."""
        opened, point = self._point(number, fields)
        if reason := _not_here(opened, point):
            return Refused(reason)
        with self._turns.among_others() if self._turns else nullcontext():
            try:
                return replace(opened.chunk(point, part, of, self._progress), worker=self._name)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # `sys.exit` in a method, too
                return Unmade(f"{type(error).__name__}: {first_line(error)}")

    def heard(self) -> News:
        """What is new, as soon as anything is; while this worker measures alone, only that its wait is over."""
        with self._changed:
            self._changed.wait_for(self._worth_telling)
            news, self._news = self._news, News(waits=self._news.waits)
            self._told_waits = news.waits
            return news

    def _worth_telling(self) -> bool:
        news = self._news
        return news.waits != self._told_waits or (bool(news.what or news.work) and not self._silent)

    def close(self) -> None:
        """Remove what this worker has written."""
        self._scratch.__exit__(None, None, None)

    def _point(self, number: int, fields: dict[str, Any]) -> tuple[OpenWorkload, Point]:
        opened = self._opened[number]
        torch.set_num_threads(int(opened.workload.depends_on["threads"]))
        return opened, Point(workload=opened.workload, **fields)

    # -- inside a point ----------------------------------------------------------------------------------------

    def _progress(self, what: str, work: int) -> None:
        with self._changed:
            self._news = replace(self._news, what=what, work=self._news.work + work)
            self._changed.notify_all()
        if self._turns is not None:
            self._turns.pause()

    def _wait(self, waits: bool) -> None:
        with self._changed:
            self._news = replace(self._news, waits=waits)
            self._changed.notify_all()

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        assert self._turns is not None
        with self._turns.alone():
            self._silent = True
            try:
                yield
            finally:
                with self._changed:
                    self._silent = False
                    self._changed.notify_all()


def _device_name(device: torch.device) -> str:
    """What workers on one device have in common: the machine's processors, or a GPU's own number."""
    return "cpu" if device.type == "cpu" else str(torch.cuda.get_device_properties(device).uuid)


def _not_here(opened: OpenWorkload, point: Point) -> str:
    """Why a point cannot run as it was planned; "" where it can."""
    try:
        here = plan.point(opened.method(point), opened.model, opened.workload, point.reference)
    except UserError as error:
        return str(error)
    if here.source != point.source:
        return f"the code of method {point.method!r} is another than the driver's, or imports modules that are"
    return "" if here.adapter == point.adapter else f"the adapter of {point.label or point.method!r} is another one"
