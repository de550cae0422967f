"""One denoiser step with a method on -> one record."""

from __future__ import annotations

import copy
import gc
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar

import torch

from harness import attach, limit
from harness.backbones.base import Backbone
from harness.cost import timed, worked
from harness.errors import first_line, told
from harness.leftovers import Snapshot
from harness.measure import energy, latency, memory
from harness.measure.torch_counter import Executed, counting
from harness.method import Method
from harness.models.model import Model
from harness.process_state import ProcessState
from harness.profiling import modes
from harness.profiling.breakdown import divided
from harness.spec import Progress, State, Step
from harness.sweep import META, Mode
from harness.workload import Point, Workload
from results.record import Estimate, Record
from results.run_folder import RunFolder
from results.tables.step_costs import TASK

_GIGA, _MIB = 1e9, 2**20
_MIDDLE = Step(10, 20, 500.0)  # for methods that treat the first or last steps otherwise
_SEED = 0


@dataclass
class Subject:
    """A denoiser on its device. build: makes it anew. size: side of its latents by default; None: the family's own.
    text_source: where the number of text tokens comes from. model: what has fitted adapters, unless weights are random.
    """

    backbone: Backbone
    device: torch.device
    size: int | None
    text_tokens: int
    text_source: str
    digest: str
    build: Callable[[], Backbone]
    model: Model | None = None
    _untouched: Snapshot | None = None

    def remember(self) -> None:
        """Look at the denoiser before anything is put on it, for `left_behind`."""
        self._untouched = self._untouched or Snapshot.of({"transformer": self.backbone.transformer})

    def left_behind(self) -> list[str]:
        """What differs in the denoiser from when it was remembered, in words; there is a new one then."""
        assert self._untouched is not None
        if changes := self._untouched.changes({"transformer": self.backbone.transformer}):
            self._untouched = None
            del self.backbone  # it need not stay beside the new one
            gc.collect()
            self.backbone = self.build()
        return changes


@dataclass(frozen=True)
class Candidate:
    """A method and its state. told: where the state comes from. steps: how many sampling steps have a cost of their
    own. digest: of an adapter or a table of ratios that the state comes from."""

    method: Method
    state: State | None
    told: str
    steps: int = 1
    digest: str = ""


@dataclass(frozen=True)
class Setup:
    """The inputs of a step: images per batch, side of the latents, tokens to generate where the model takes some; and
    how it is executed."""

    batch: int
    size: int | None
    text_tokens: int
    mask_tokens: int | None
    mode: Mode = "eager"


@dataclass
class OpenStep:
    """A workload of one denoiser step, its model at hand. candidate: a point's method and state."""

    workload: Workload
    on: Subject
    setup: Setup
    rounds: int
    candidate: Callable[[Point], Candidate]
    needs_dense: ClassVar[bool] = False

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
        try:
            estimates, samples = _measured(self.rounds, self.on, candidate, self.setup)
            reason = _idle(candidate, estimates, dense)
        except modes.CapturedError as error:
            reason, trace = str(error), traceback.format_exc()
        except Exception as error:
            own = set[str]().union(*(one.files() for one in candidate.method.members()))
            reason, trace = _told(error, self.on.device, own), traceback.format_exc()
        if left := [*process.restore(), *self.on.left_behind()]:
            reason = "; ".join([*([reason] if reason else []), f"it left behind: {', '.join(left)}"])
        if reason:
            outcome, estimates, samples = "failed", {}, {}
        progress(f"{point.label}, batch {self.setup.batch}", self.work_per_point)
        method = candidate.method
        ran = outcome == "ok" and method.ratio is not None
        return self.record(
            point, outcome=outcome, reason=reason, traceback=trace, estimates=estimates, samples=samples,
            ratio_reached=method.reached(candidate.state) if ran else None, started=started,
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


def settings_of(setup: Setup) -> dict[str, Any]:
    """As a record keeps them."""
    found: dict[str, Any] = {"batch": setup.batch, "size": setup.size, "text_tokens": setup.text_tokens}
    found |= {"mask_tokens": setup.mask_tokens} if setup.mask_tokens is not None else {}
    return found | ({"mode": setup.mode} if setup.mode != "eager" else {})


def inputs(backbone: Backbone, setup: Setup) -> dict[str, Any]:
    """The same random ones for every method; the global random state stays as it is. Raises UserError for what the
    family does not take."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(_SEED)
        rows = setup.batch * backbone.rows_per_image
        return backbone.inputs(rows, text_tokens=setup.text_tokens, size=setup.size, tokens=setup.mask_tokens)


def steps_of(candidate: Candidate) -> list[Step]:
    """One step, or one in each region of a table."""
    many = candidate.steps
    return [_MIDDLE] if many == 1 else [Step(index, many, 500.0) for index in range(many)]


def single_steps(backbone: Backbone, candidate: Candidate, given: Mapping[str, Any]) -> list[Callable[[], None]]:
    """Each runs one of the candidate's steps on these inputs; the method has to be on."""

    def run(step: Step) -> None:
        with torch.no_grad(), backbone.at(step):
            backbone.transformer(**given)

    return [partial(run, step) for step in steps_of(candidate)]


def stepper(backbone: Backbone, candidate: Candidate, given: Mapping[str, Any]) -> Callable[[], None]:
    """Runs all of them."""
    steps = single_steps(backbone, candidate, given)

    def run() -> None:
        for step in steps:
            step()

    return run


def executed(on: Subject, candidate: Candidate, setup: Setup) -> Executed:
    """What all of the candidate's steps execute together."""
    run = stepper(on.backbone, candidate, inputs(on.backbone, setup))
    put_on = attach.stepping(on.backbone, candidate.method, candidate.state)
    with torch.compiler.set_stance("force_eager"), put_on, counting() as found:
        run()
    return found


def count(on: Subject, candidate: Candidate, setup: Setup) -> tuple[Executed, dict[str, float]]:
    """The same, and by part, in MACs."""
    backbone = on.backbone
    run = stepper(backbone, candidate, inputs(backbone, setup))
    put_on = attach.stepping(backbone, candidate.method, candidate.state)
    with torch.compiler.set_stance("force_eager"), counting() as found:
        shares = divided(backbone, put_on, lambda: float(found.so_far()), run)
    return found, shares


def _measured(
    rounds: int, on: Subject, candidate: Candidate, setup: Setup
) -> tuple[dict[str, Estimate], dict[str, list[float]]]:
    ran, shares = count(on, candidate, setup)
    per = _GIGA * setup.batch * candidate.steps
    halves = "both CFG halves" if on.backbone.rows_per_image == 2 else "one row per image"
    mean = f", mean over {candidate.steps} timestep regions" if candidate.steps > 1 else ""
    about = f"per image and sampling step, {halves}, {setup.text_tokens} text tokens{mean}"
    notes = f"; not counted: {', '.join(sorted(ran.unknown))}" if ran.unknown else ""
    estimates = {
        "gmacs": Estimate(
            value=ran.total / per, n=1, unit="GMACs", role="cost", better="lower",
            convention=f"every matrix product, fused attention included, {about}{notes}",
        ),
        "gmacs_paper": Estimate(
            value=ran.paper / per, n=1, unit="GMACs", role="cost", better="lower",
            convention=f"fvcore's count, from the operators that ran: no products inside fused attention, 4 operations "
            f"per element of a norm (5 with factors), {about}",
        ),
    }  # fmt: skip
    for name, macs in shares.items():
        estimates[f"gmacs_{name}"] = Estimate(
            value=macs / per, n=1, unit="GMACs", convention=f"share of gmacs, {about}"
        )
    if on.device.type == META:
        return estimates, {}
    with _place(on, candidate) as backbone:
        measured, samples = _timed(rounds, on, candidate, setup, backbone)
    return estimates | measured, samples


@contextmanager
def _place(on: Subject, candidate: Candidate) -> Iterator[Backbone]:
    """The backbone that carries the method: a copy for one that takes long to put on."""
    yield type(on.backbone)(copy.deepcopy(on.backbone.transformer)) if candidate.method.lasting else on.backbone


def _timed(
    rounds: int, on: Subject, candidate: Candidate, setup: Setup, own: Backbone
) -> tuple[dict[str, Estimate], dict[str, list[float]]]:
    device, steps, mode = on.device, candidate.steps, setup.mode
    given = inputs(on.backbone, setup)
    dense, method = stepper(on.backbone, candidate, given), stepper(own, candidate, given)
    clock = latency.clock(device)
    about = f"a denoiser step at batch {setup.batch}, {clock}" + (f", mode {mode}" if mode != "eager" else "")
    lasting = candidate.method.lasting
    found: dict[str, Estimate] = {}

    def on_own() -> Any:
        return attach.stepping(own, candidate.method, candidate.state)

    seen = limit.Seen()
    if not lasting:
        with on_own(), seen.on(own):
            method()
    with modes.compiling(mode, {on.backbone, own}), attach.kept_on(on_own, lasting) as inside:
        with inside():
            peak = memory.peak(method, device)
            if device.type == "cpu":
                most = memory.resident(method)
                found["peak_resident_mb"] = Estimate(
                    value=most / _MIB, n=1, unit="MiB", convention="most bytes of main memory that the process held"
                )
        runs: list[Callable[[], None]] = [dense, method]
        contexts: list[Callable[[], Any]] = [nullcontext, inside]
        if seen.thinned:
            runs, contexts = [*runs, method], [*contexts, lambda: limit.dense_on(own, seen.counts)]
        if "graph" in mode:
            each = [single_steps(backbone, candidate, given) for backbone in (on.backbone, own, own)]
            runs = [modes.captured(one, put_on) for one, put_on in zip(each, contexts, strict=False)]
            contexts = [nullcontext] * len(runs)
        dense_s, own_s, *limits = latency.interleave(runs, device=device, warmup=1, repeats=rounds, inside=contexts)
        if device.type == "cuda" and not energy.absent(device):
            with contexts[1]():
                spent = energy.joules(runs[1], device) / steps / setup.batch
            found["energy_j"] = Estimate(
                value=spent, n=1, unit="J", role="cost", better="lower",
                convention="NVML's counter of the whole device, per image and step, idle power included",
            )  # fmt: skip
        with contexts[1]():
            found |= worked(runs[1], device, about)
    if mode == "eager" and not lasting:  # what torch.compile or a graph has made cannot be looked into

        def read() -> float:
            latency.synchronize(device)
            return time.perf_counter()

        for name, seconds in divided(own, on_own(), read, method).items():
            found[f"latency_{name}_s"] = Estimate(
                value=seconds / steps, n=1, unit="s",
                convention=f"one step at batch {setup.batch}, the device waited for at every part",
            )  # fmt: skip
    total = memory.weights_bytes([own.transformer]) + peak.bytes
    found["peak_memory_mb"] = Estimate(
        value=total / _MIB, n=1, unit="MiB", role="cost", better="lower",
        convention=f"the denoiser's weights, and {peak.convention}; batch {setup.batch}",
    )  # fmt: skip
    found |= timed(own_s, dense_s, about, runs=steps, limit=sum(limits, []))
    samples = {"latency_dense_s": dense_s, "latency_method_s": own_s}
    return found, samples | ({"latency_limit_s": limits[0]} if limits else {})


def _idle(candidate: Candidate, estimates: Mapping[str, Estimate], dense: Record | None) -> str:
    """No silent no-op: why a compressing method has failed that costs what dense does."""
    if dense is None or not dense.usable or not candidate.method.compresses or candidate.method.ratio == 0:
        return ""
    own, reference = estimates["gmacs"].value, dense.estimates["gmacs"].value
    if abs(own - reference) > 1e-6 * reference:
        return ""
    return f"changed no cost: {own:.6g} GMACs per image and step, the same as dense (a silent no-op)"


def _told(error: Exception, device: torch.device, own: Collection[str]) -> str:
    full = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
    if full:
        peak = f" at a peak of {_peak(device) / _MIB:,.0f} MiB"
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return f"out of memory{peak} on {device}: take a smaller --batch or --size, or --dtype bfloat16"
    if device.type == META and isinstance(error, (NotImplementedError, RuntimeError)):
        return f"cannot be counted on meta, since its work depends on values; use --device cpu ({first_line(error)})"
    return told(error, own)


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return memory.resident(lambda: None)
