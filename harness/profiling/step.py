"""One denoiser step with a method on -> one record."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

import torch

from harness import modes
from harness.errors import failure_reason, first_line
from harness.measure import memory
from harness.process_state import ProcessState
from harness.profiling.costs import measured
from harness.profiling.subject import Candidate, Setup, Subject, settings_of
from harness.spec import Progress
from harness.sweep import META
from harness.workload import Point, Workload
from results.record import Estimate, Record
from results.run_folder import RunFolder
from results.tables.step_costs import TASK

_MIB = 2**20


@dataclass
class OpenStep:
    """A workload of one denoiser step, its model loaded. candidate: a point's method and state."""

    workload: Workload
    on: Subject
    setup: Setup
    rounds: int
    candidate: Callable[[Point], Candidate]
    needs_dense: ClassVar[bool] = False
    _begun: bool = False

    @property
    def work_per_point(self) -> int:
        """The unit of progress: a step."""
        return 2 * (self.rounds + 1) + 5

    def load(self) -> None:
        """The denoiser is here already."""

    def run(self, point: Point, folder: RunFolder, progress: Progress) -> Record:
        """Measure one point. Whatever the method raises becomes a failed record, out of memory among it."""
        began, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
        progress(f"{point.label}, batch {self.setup.batch}", 0)
        self.on.remember()
        process = ProcessState.now()
        dense = folder.store.get(point.reference) if point.reference else None
        candidate = self.candidate(point)
        estimates: dict[str, Estimate] = {}
        samples: dict[str, list[float]] = {}
        outcome, reason, trace = "ok", "", ""
        if "compile" in self.setup.mode and not self._begun:
            torch._dynamo.reset()  # the forms of other batches and sizes count towards the most that there may be
        self._begun = True
        try:
            if self.on.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.on.device)  # of this point, if it runs out of memory
            estimates, samples = measured(self.rounds, self.on, candidate, self.setup)
            reason = _idle(candidate, estimates, dense)
        except modes.CapturedError as error:
            reason, trace = str(error), traceback.format_exc()
        except Exception as error:
            own = set[str]().union(*(one.files() for one in candidate.method.members()))
            reason, trace = _reason(error, self.on.device, own), traceback.format_exc()
        if left := [*process.restore(), *self.on.left_behind()]:
            reason = "; ".join([*([reason] if reason else []), f"it left behind: {', '.join(left)}"])
        if reason:
            outcome, estimates, samples = "failed", {}, {}
        progress(f"{point.label}, batch {self.setup.batch}", self.work_per_point)
        method = candidate.method
        ran = outcome == "ok" and method.ratio is not None
        return self.record(
            point, outcome=outcome, reason=reason, traceback=trace, estimates=estimates, samples=samples,
            ratio_reached=method.effective_ratio(candidate.state) if ran else None, started=started,
            seconds=time.monotonic() - began,
        )  # fmt: skip

    def record(self, point: Point, **rest: Any) -> Record:
        """A record of this point; `rest` is what became of it."""
        request = self.workload.request
        return Record(
            **{
                "key": point.key, "sample_key": point.sample_key, "method": point.method, "settings": point.settings,
                "ratio": point.ratio, "strength": point.strength,
                "task": TASK, "task_settings": settings_of(self.setup), "model": request["model"],
                "device": request["device"], "dtype": request["dtype"], "steps": 1,
                "n_cases": self.setup.batch, "fingerprint": self.workload.fingerprint,
                "environment": self.workload.environment | {"state": point.facts["state"]}, **rest,
            }
        )  # fmt: skip


def _idle(candidate: Candidate, estimates: Mapping[str, Estimate], dense: Record | None) -> str:
    """No silent no-op: why a compressing method has failed that costs what dense does."""
    if dense is None or not dense.usable or not candidate.method.compresses or candidate.method.ratio == 0:
        return ""
    own, reference = estimates["gmacs"].value, dense.estimates["gmacs"].value
    if abs(own - reference) > 1e-6 * reference:
        return ""
    return f"changed no cost: {own:.6g} GMACs per image and step, the same as dense (a silent no-op)"


def _reason(error: Exception, device: torch.device, own: Collection[str]) -> str:
    if memory.ran_out(error):
        peak = f" at a peak of {_peak(device) / _MIB:,.0f} MiB"
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return f"out of memory{peak} on {device}: take a smaller --batch or --size, or --dtype bfloat16"
    if device.type == META and isinstance(error, (NotImplementedError, RuntimeError)):
        return f"cannot be counted on meta, since its work depends on values; use --device cpu ({first_line(error)})"
    return failure_reason(error, own)


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return memory.resident(lambda: None)
