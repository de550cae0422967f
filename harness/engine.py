"""One operating point of an open workload -> one record."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, ClassVar, get_args

import numpy as np

from harness import attach, cost, effect, generation, timing, token_maps
from harness.compose import method_class
from harness.errors import MethodFailure, failure_reason
from harness.generation import Chunk
from harness.judging import clustered, judged
from harness.measure import environment, latency
from harness.method import Method
from harness.metric import Metric, Sample, images_to_uint8
from harness.models import Model, adapters
from harness.process_state import ProcessState
from harness.spec import Case, Progress, State
from harness.sweep import DENSE, Mode
from harness.task import Task
from harness.workload import Point, Workload
from results.analysis.differences import clusters_of
from results.analysis.modes import RATIO, named
from results.record import CaseFacts, Estimate, Record
from results.run_folder import RunFolder
from results.store import StoreError


@dataclass
class _PointResult:
    """What the passes of a point leave, as far as they came."""

    estimates: dict[str, Estimate] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    paths: dict[str, Any] = field(default_factory=dict)
    judged: tuple[str, ...] = ()


@dataclass
class OpenWorkload:
    """A workload with its model, task, cases and metrics opened. The dense images stay in memory for the points that
    are compared with them.

    exclusive: a context in which no other process uses the device, entered while costs are measured; None where none
    does anyway.
    """

    workload: Workload
    model: Model
    task: Task
    cases: tuple[Case, ...]
    metrics: tuple[Metric, ...]
    exclusive: Callable[[], AbstractContextManager[object]] | None = None
    needs_dense: ClassVar[bool] = True
    _dense: tuple[str, Sample, float] | None = None

    @property
    def batch(self) -> int:
        return int(self.workload.request["batch"])

    @property
    def rounds(self) -> int:
        return int(self.workload.request["rounds"])

    @property
    def subject(self) -> cost.Subject:
        return cost.Subject(self.model, self.task, self.cases)

    @cached_property
    def dense(self) -> Method:
        return method_class(DENSE)()

    @property
    def work_per_point(self) -> int:
        """How many images a point makes in all its passes: the unit of progress and of time estimates."""
        return (
            len(self.cases) + 2 * (self.rounds + 1) + 7 + len(self.workload.modes) * timing.images(self.rounds)
        )  # parts, memory and between, maps, and counting, whose two go slower

    def method(self, point: Point) -> Method:
        """Raises UserError for a name that is not registered here."""
        cls = method_class(point.method)
        return cls(cls.Settings.model_validate(point.settings))

    def load(self) -> None:
        """Load the weights. Raises UserError."""
        _ = self.model.pipeline

    def seconds_per_image(self) -> float:
        """Of dense images in a batch, measured now."""
        batch = self.cases[: self.batch]
        self.task.prepare(self.cases)
        with attach.running(self.model, self.dense, None, guided=self.task.guided):
            if self.model.device.type == "cuda":
                self.task.generate(batch)  # the first ones load libraries
            return latency.seconds(lambda: self.task.generate(batch), self.model.device) / len(batch)

    def chunk(self, point: Point, number: int, of: int, progress: Progress) -> Chunk:
        """Part `number`, from 0, of `of` of a point's images, for the process that runs it. Raises what the method
        raises, and MethodFailure for what it has left behind; model and process are then as they were."""
        process = ProcessState.now()
        try:
            self.task.prepare(self.cases)
            self.model.remember()
            method = self.method(point)
            state = adapters.state_of(method, self.model)
            mine = generation.part(generation.batches(self.task, self.cases, method, self.batch), number, of)
            made = generation.generate(self.subject, method, state, mine, _prefixed(progress, point.label))
        finally:
            left = [*process.restore(), *self.model.left_behind()]
        if left:
            raise MethodFailure(f"it left behind: {', '.join(left)}")
        return made

    def run(self, point: Point, folder: RunFolder, progress: Progress, made: Sequence[Chunk] = ()) -> Record:
        """Generate, measure and judge one point, its files in `folder`. Whatever the method raises becomes a failed
        record, and so does what it has left behind on the model, which is then loaded anew, or in the process, which
        is restored. A point whose images and costs are there, under other metrics, is judged alone. made: images that
        others have made; the rest is made here."""
        process = ProcessState.now()
        began, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
        result, outcome, reason, trace, effective_ratio = _PointResult(), "ok", "", "", None
        tell = _prefixed(progress, point.label)
        own: set[str] = set()
        try:
            self.task.prepare(self.cases)  # what text encoders set up for themselves is theirs
            self.model.remember()
            method = self.method(point)
            own = set[str]().union(*(one.files() for one in method.members()))
            state = adapters.state_of(method, self.model)
            effective_ratio = method.effective_ratio(state) if method.ratio is not None else None
            lost = self._passes(point, method, state, folder, result, tell, made)
            if lost:
                outcome, reason = "incomplete", "; ".join(lost)
        except StoreError:  # a full disk, say, which is no fault of the method
            process.restore()
            self.model.left_behind()
            raise
        except Exception as error:
            outcome, reason, trace = "failed", failure_reason(error, own), traceback.format_exc()
        if left := [*process.restore(), *self.model.left_behind()]:
            reason = f"{f'{reason}; ' if outcome == 'failed' else ''}it left behind: {', '.join(left)}"
            outcome = "failed"
        if outcome == "failed":
            result, effective_ratio = _PointResult(), None
        return self.record(
            point, outcome=outcome, reason=reason, traceback=trace, ratio_reached=effective_ratio,
            estimates=result.estimates, samples=result.samples, judged=result.judged, started=started,
            seconds=time.monotonic() - began + sum(chunk.took for chunk in made), **result.paths,
            **({"environment": result.environment} if result.environment else {}),
        )  # fmt: skip

    def record(self, point: Point, **rest: Any) -> Record:
        """A record of this point; `rest` is what became of it."""
        request = self.workload.request
        return Record(
            **{
                "key": point.key, "sample_key": point.sample_key, "method": point.method, "settings": point.settings,
                "ratio": point.ratio, "strength": point.strength, "task": request["task"],
                "task_settings": dict(self.workload.task_settings), "model": request["model"],
                "device": request["device"], "dtype": request["dtype"], "steps": self.workload.steps,
                "n_cases": len(self.cases), "cases": self._case_facts, "fingerprint": self.workload.fingerprint,
                "environment": self.workload.environment, **rest,
            }
        )  # fmt: skip

    @cached_property
    def _case_facts(self) -> tuple[CaseFacts, ...]:
        facts = self.task.case_facts
        return tuple(CaseFacts(prompt=case.prompt, seed=case.seed, facts=facts(case)) for case in self.cases)

    def _sample(self, images: np.ndarray) -> Sample:
        return Sample(self.cases, images, clusters_of(self._case_facts))

    # -- passes ----------------------------------------------------------------------------------------------

    def _passes(
        self,
        point: Point,
        method: Method,
        state: State | None,
        folder: RunFolder,
        result: _PointResult,
        progress: Progress,
        made: Sequence[Chunk],
    ) -> list[str]:
        """Fills `result`; returns what could not be judged."""
        dense = self._reference(point, folder)
        known = folder.store.of_sample(point.sample_key)
        images = folder.images(known) if known is not None else None
        if known is not None and images is not None:
            sample = self._sample(images)
            result.estimates = {name: e for name, e in known.estimates.items() if name not in known.judged}
            result.samples = known.samples
            result.environment = dict(known.environment)  # the costs were measured by that commit, on that day
            result.paths = {"images": known.images, "shown": known.shown, "token_maps": known.token_maps}
        else:
            sample = self._measure(point, method, state, folder, result, progress, made)
        if dense is None:
            self._dense = (point.key, sample, result.estimates["gmacs"].value)
        lost = self._time_in_modes(method, state, result, progress)
        progress("quality", 0)
        if known is not None and images is not None and self._settled(known, folder):  # modes alone were asked for
            result.estimates |= {name: known.estimates[name] for name in known.judged}
            result.judged = known.judged
            result.paths |= {"features": known.features, "references": known.references}
            return lost
        if result.environment:
            result.environment["judged_by_commit"] = environment.commit()
        costs = set(result.estimates)
        found, unjudged = judged(self.metrics, sample, dense, costs)
        result.estimates = clustered(result.estimates | found, sample.clusters)
        result.judged = tuple(found)
        result.paths["features"] = folder.save_features(sample.features, point.sample_key)
        result.paths["references"] = folder.save_references(sample.references)
        return lost + unjudged

    def _settled(self, known: Record, folder: RunFolder) -> bool:
        """Whether the metrics of today have judged a record, without loss."""
        return known.outcome == "ok" and known.fingerprint == self.workload.fingerprint and folder.complete(known)

    def _time_in_modes(
        self, method: Method, state: State | None, result: _PointResult, progress: Progress
    ) -> list[str]:
        """Adds latency in those of the workload's modes that `result` has none of; returns why some have none."""
        asked = (mode for mode in get_args(Mode) if mode in self.workload.modes)
        missing = [mode for mode in asked if named(RATIO, mode) not in result.estimates]
        if not missing:
            return []
        spent = result.estimates["gmacs"].values if method.adaptive else ()
        subject = replace(self.subject, spent=spent) if spent else cost.looked_at(self.subject, method, state)
        with self.exclusive() if self.exclusive else nullcontext():
            found, samples, lost = timing.in_modes(missing, subject, method, state, self.dense, self.rounds, progress)
        result.estimates |= found
        result.samples = result.samples | samples
        if result.environment:  # of a record whose other figures are older
            result.environment["timed_by_commit"] = environment.commit()
        return lost

    def _measure(
        self,
        point: Point,
        method: Method,
        state: State | None,
        folder: RunFolder,
        result: _PointResult,
        progress: Progress,
        made: Sequence[Chunk],
    ) -> Sample:
        chunks = self.generate(method, state, progress, made)
        images, spent = generation.joined(chunks, len(self.cases))
        sample, subject = self._sample(images), replace(self.subject, spent=spent)
        progress("cost", 0)
        with self.exclusive() if self.exclusive else nullcontext():
            result.estimates, result.samples = cost.measured(subject, method, state, self.dense, self.rounds, progress)
        if not self.exclusive:  # others may have worked beside the generation
            result.estimates |= generation.throughput(chunks, self.batch)
        result.estimates |= self.task.facts(self.cases)
        if point.reference:
            assert self._dense is not None
            _, dense, reference = self._dense
            effect.on_dense(method, sample, dense, result.estimates["gmacs"].value, reference)
        effect.of_members(method, self.subject, result.estimates["gmacs"])
        if point.reference and point.ratio:
            progress("token maps", 0)
            maps = token_maps.record(self.model, self.task, self.task.mapped(self.cases), method, state)
            result.paths["token_maps"] = folder.save_token_maps(maps, point.sample_key)
        progress("token maps", 1)
        if not point.reference:
            result.paths["shown"] = {
                label: folder.save_images(images_to_uint8(some), point.sample_key, label)
                for label, some in self.task.shown(self.cases)
            }
        result.paths["images"] = folder.save_images(sample.images, point.sample_key)
        return sample

    def generate(
        self, method: Method, state: State | None, progress: Progress, made: Sequence[Chunk] = ()
    ) -> tuple[Chunk, ...]:
        """All cases' images: those that others have made, and the rest, which is made here."""
        batches = generation.batches(self.task, self.cases, method, self.batch)
        rest = generation.missing(batches, made)
        return (*made, generation.generate(self.subject, method, state, rest, progress)) if rest else (*made,)

    def _reference(self, point: Point, folder: RunFolder) -> Sample | None:
        """The dense images that a point is compared with; None for dense itself."""
        if not point.reference:
            return None
        if self._dense is None or self._dense[0] != point.reference:
            record = folder.store.get(point.reference)
            images = folder.images(record) if record is not None and record.usable else None
            if record is None or images is None:
                raise MethodFailure("the dense point that it is compared with has no images here")
            self._dense = (point.reference, self._sample(images), record.estimates["gmacs"].value)
        return self._dense[1]


def _prefixed(progress: Progress, label: str) -> Progress:
    return lambda what, images: progress(f"{label}: {what}", images)
