"""Run what is missing of a plan, in a run folder, and draw its outputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from harness.engine import OpenWorkload
from harness.errors import UserError
from harness.executors import isolated, local
from harness.executors.cluster import Cluster
from harness.executors.worker import Opened
from harness.workload import Point
from results import outputs
from results.at_work import at_work
from results.record import Record
from results.run import Run
from results.run_folder import ASKED, STORE, RunFolder
from results.store import StoreError
from results.taken_over import beside, take

Part = tuple[Opened, tuple[Point, ...]]
"""An open workload, and its points, dense first."""


class Listener:
    """Hears how a run goes; does nothing with it. work: images, or steps of a profile."""

    def begin(self, work: int) -> None:
        """So much is to do."""

    def progress(self, what: str, work: int) -> None:
        """This is being done, and so much more has been."""

    def finished(self, record: Record) -> None:
        """A point is done."""

    def say(self, line: str) -> None:
        """Something that a person should know."""

    def end(self) -> None:
        """All points are done; outputs are drawn now."""


class Told(Listener):
    """A listener that hands progress on to a function."""

    def __init__(self, progress: Callable[[str, int], None]) -> None:
        self._progress = progress

    def progress(self, what: str, work: int) -> None:
        self._progress(what, work)


def missing(parts: Sequence[Part], out: Path) -> list[list[Point]]:
    """The points of every workload that have no complete record in the folder yet; failed and incomplete ones are tried
    again. Dense is among them where others need its images and they are gone. Raises UserError."""
    if not (out / STORE).is_file():
        return [list(points) for _, points in parts]
    try:
        with RunFolder.open(out) as folder:
            return [_missing(points, folder) for _, points in parts]
    except StoreError as error:
        raise UserError(str(error)) from error


def _missing(points: Sequence[Point], folder: RunFolder) -> list[Point]:
    done = folder.store.keys("ok")
    todo = [point for point in points if point.key not in done]
    if todo and points[0] not in todo:
        dense = folder.store.get(points[0].key)
        if dense is None or not (folder.complete(dense) and folder.sound(dense)):
            todo.insert(0, points[0])
    return todo


def execute(
    parts: Sequence[Part],
    shared: Mapping[str, Any],
    out: Path,
    *,
    listener: Listener | None = None,
    isolate: bool = False,
    point_timeout: float | None = None,
    fresh: bool = False,
    all_plots: bool = False,
    cluster: Cluster | None = None,
) -> Run:
    """Run what the folder `out` and, unless `fresh`, the run folders beside it do not hold, then draw what is not
    drawn. shared: what all points of the folder share. point_timeout: seconds after which a point is given up, which
    takes a process of its own. cluster: where points run, if not here. Returns the table of these points.

    Raises UserError before anything is written: for a folder of another workload, for weights that do not load, and for
    a cluster that cannot be used.
    """
    hear = listener or Listener()
    try:
        todo = missing(parts, out)
        found = {} if fresh else beside(out, [point.key for points in todo for point in points])
        todo = [[point for point in points if point.key not in found] for points in todo]
        if (out / STORE).is_file():
            RunFolder.grow(out, shared).close()  # another workload is refused before weights load
        work = [(opened, tuple(points)) for (opened, _), points in zip(parts, todo, strict=True) if points]
        with ExitStack() as stack:
            run = stack.enter_context(_executor(work, shared, hear, isolate, point_timeout, cluster))
            folder = stack.enter_context(RunFolder.grow(out, shared))
            stack.enter_context(at_work(folder.path))
            if found:
                take(folder, found)
                places = ", ".join(sorted({str(place.name) for place in found.values()}))
                hear.say(f"{len(found)} finished points are taken over from {places} (--fresh runs them anew)")
            keys = [point.key for _, points in parts for point in points]
            if folder.store.get_meta(ASKED) != json.dumps(keys):
                folder.store.set_meta(ASKED, json.dumps(keys))
            hear.begin(sum(opened.work_per_point * len(points) for opened, points in work))
            run(folder)
            hear.end()
            if not outputs.drawn(folder, all_plots=all_plots):
                outputs.write(folder, all_plots=all_plots)
            records = folder.store.records(keys)
            return Run(records, out, not_run=len(keys) - len(records))
    except StoreError as error:
        raise UserError(str(error)) from error


@contextmanager
def _executor(
    work: Sequence[Part],
    shared: Mapping[str, Any],
    hear: Listener,
    isolate: bool,
    point_timeout: float | None,
    cluster: Cluster | None,
) -> Iterator[Callable[[RunFolder], None]]:
    """What runs these points into a folder, ready to begin. Raises UserError where it cannot."""
    if cluster is not None and work:
        from harness.executors import ray_pool, splits  # its locks are POSIX's

        sweep = [(one, some) for one, some in work if isinstance(one, OpenWorkload)]  # profiles ask for no cluster
        opened = [one for one, _ in sweep]
        with ray_pool.started(cluster, opened, shared, splits.room(sweep), point_timeout, hear) as pool:
            yield partial(pool.run, sweep)
        return
    for here, _ in work:
        here.load()
    apart = isolate or point_timeout is not None
    run_point = partial(isolated.run_point, timeout=point_timeout) if apart else local.run_point

    def run(folder: RunFolder) -> None:
        for here, points in work:
            local.run_points(here, points, folder, hear.progress, hear.finished, run_point)

    yield run
