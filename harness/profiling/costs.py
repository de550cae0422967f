"""What a denoiser step costs with a method on: products, seconds, bytes and joules."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch

from harness import attach, limit, modes
from harness.backbones.base import Backbone
from harness.kernels import routing
from harness.latency_estimates import timed, worked
from harness.measure import energy, latency, memory
from harness.measure.torch_counter import Executed, counting
from harness.profiling.breakdown import attribute_cost
from harness.profiling.subject import Candidate, Setup, Subject, inputs
from harness.spec import Step
from harness.sweep import META
from results.record import Estimate

_GIGA, _MIB = 1e9, 2**20
_MIDDLE = Step(10, 20, 500.0)  # for methods that treat the first or last steps otherwise


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
        shares = attribute_cost(backbone, put_on, lambda: float(found.running_total()), run)
    return found, shares


def measured(
    rounds: int, on: Subject, candidate: Candidate, setup: Setup
) -> tuple[dict[str, Estimate], dict[str, list[float]]]:
    """Estimates of every cost, and the raw seconds behind the latency."""
    with memory.idle(on.backbone.blocks) as idle:
        ran, shares = count(on, candidate, setup)
    unused = [layer for layer, block in enumerate(on.backbone.blocks) if any(block is one for one in idle)]
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
        seconds, samples = _timed(rounds, on, candidate, setup, backbone, unused)
    return estimates | seconds, samples


@contextmanager
def _place(on: Subject, candidate: Candidate) -> Iterator[Backbone]:
    """The backbone that carries the method: a copy for one that takes long to put on."""
    yield type(on.backbone)(copy.deepcopy(on.backbone.transformer)) if candidate.method.slow_to_attach else on.backbone


def _timed(
    rounds: int, on: Subject, candidate: Candidate, setup: Setup, own: Backbone, unused: Sequence[int]
) -> tuple[dict[str, Estimate], dict[str, list[float]]]:
    """unused: layers whose blocks never run."""
    device, steps, mode = on.device, candidate.steps, setup.mode
    given = inputs(on.backbone, setup)
    dense, method = stepper(on.backbone, candidate, given), stepper(own, candidate, given)
    clock = latency.clock(device)
    about = f"a denoiser step at batch {setup.batch}, {clock}" + (f", mode {mode}" if mode != "eager" else "")
    about += ", what is drawn at random is there" if device.type == "cuda" else ""
    about += routing.note(device, mode)
    slow_to_attach = candidate.method.slow_to_attach
    found: dict[str, Estimate] = {}

    def on_own() -> Any:
        return attach.stepping(own, candidate.method, candidate.state)

    seen = limit.Seen()
    if not slow_to_attach:
        with on_own(), seen.on(own):
            method()
    with modes.compiling(mode, {on.backbone, own}), attach.kept_on(on_own, slow_to_attach) as inside:
        with inside():
            if mode != "eager":
                method()  # compiling takes memory of its own
            peak = memory.peak(method, device)
            weights = memory.weights_bytes([own.transformer], [own.blocks[layer] for layer in unused])
            if device.type == "cpu":
                most = memory.resident(method)
                found["peak_resident_mb"] = Estimate(
                    value=most / _MIB, n=1, unit="MiB", convention="most bytes of main memory that the process held"
                )

        @contextmanager
        def ready() -> Iterator[None]:
            with inside():
                announce()
                yield

        def announce() -> None:
            """The first step: in a generation, this happens while the device works at the step before."""
            if device.type == "cuda" and "graph" not in mode:
                with own.at(steps_of(candidate)[0]):
                    own.announce(**given)

        def again() -> None:
            runs[1]()
            announce()

        runs: list[Callable[[], None]] = [dense, method]
        contexts: list[Callable[[], Any]] = [nullcontext, ready]
        if limit.known(candidate.method, seen):
            runs, contexts = [*runs, method], [*contexts, lambda: limit.dense_on(own, seen.counts)]
        with ExitStack() as graphs:
            if "graph" in mode:
                each = [single_steps(backbone, candidate, given) for backbone in (on.backbone, own, own)]
                for place in range(0, len(runs), 2):  # dense and the limit: what they put on keeps no tensors
                    with modes.captured(each[place], contexts[place], device) as runs[place]:
                        pass
                runs[1] = graphs.enter_context(modes.captured(each[1], inside, device))
                contexts = [nullcontext] * len(runs)
            dense_s, own_s, *limits = latency.interleave(runs, device=device, warmup=1, repeats=rounds, inside=contexts)
            if device.type == "cuda" and not energy.absent(device):
                with contexts[1]():
                    spent, many = energy.joules(again, device)
                found["energy_j"] = Estimate(
                    value=spent / steps / setup.batch, n=1, unit="J", role="cost", better="lower",
                    convention="NVML's counter of the whole device, per image and step, idle power included; mean over "
                    f"{many} runs, exact to one of them",
                )  # fmt: skip
            with contexts[1]():
                found |= worked(again, device, about)
    if mode == "eager" and not slow_to_attach:  # what torch.compile or a graph has made cannot be looked into

        def read() -> float:
            latency.synchronize(device)
            return time.perf_counter()

        with routing.using("plain"):  # what reads the clock stands where kernels would fuse
            spent_in = attribute_cost(own, ready(), read, method)
        for name, seconds in spent_in.items():
            found[f"latency_{name}_s"] = Estimate(
                value=seconds / steps, n=1, unit="s",
                convention=f"one step at batch {setup.batch}, no kernels fused, the device waited for at every part",
            )  # fmt: skip
    total = weights + peak.bytes
    found["peak_memory_mb"] = Estimate(
        value=total / _MIB, n=1, unit="MiB", role="cost", better="lower",
        convention="the denoiser's weights with the method on, but for blocks that never run, and "
        f"{peak.convention}; batch {setup.batch}"
        + ("; without the memory of graphs" if "graph" in mode else ""),
    )  # fmt: skip
    found |= timed(own_s, dense_s, about, runs=steps, limit=sum(limits, []))
    samples = {"latency_dense_s": dense_s, "latency_method_s": own_s}
    return found, samples | ({"latency_limit_s": limits[0]} if limits else {})
