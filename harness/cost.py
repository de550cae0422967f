"""What a method costs on a workload: FLOPs, latency and memory of one image, each in a pass of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from harness import attach, limit
from harness.errors import MethodFailure
from harness.kernels import routing
from harness.latency_estimates import timed, worked
from harness.measure import flops, latency, memory
from harness.method import Method
from harness.spec import Progress, State
from results.analysis.statistics import block_size, bootstrap
from results.record import Estimate

if TYPE_CHECKING:
    from harness.models.model import Model
    from harness.spec import Case
    from harness.task import Task


_ROUNDING = 0.01
"""Mean difference of images, in shares of their range, that comes of the order in which a device adds up."""


@dataclass(frozen=True)
class Subject:
    """What is measured on: a model, a task and its cases. spent: for an adaptive method, GMACs of each case's image per
    sampling step."""

    model: Model
    task: Task
    cases: tuple[Case, ...]
    spent: tuple[float, ...] = ()

    @property
    def counts(self) -> np.ndarray:
        """`spent` by the cases that would cost the same if the method did not look at the image."""
        return np.array([self.spent[row] for row in self.task.alike(self.cases)])

    @property
    def typical(self) -> tuple[Case, str]:
        """The case that costs are measured on, and how it was chosen."""
        if not self.spent:
            return self.task.typical(self.cases)
        rows, counts = self.task.alike(self.cases), self.counts
        return self.cases[rows[int(np.abs(counts - counts.mean()).argmin())]], "of the image nearest to the mean"


def with_products(on: Subject, case: Case) -> tuple[Tensor, float]:
    """The image of one case, (1, 3, H, W), and the GMACs of its denoiser per sampling step; a method may be on."""
    with flops.tallied(on.model.backbone.transformer) as calls:
        images = on.task.generate((case,))
    return images, sum(calls) / on.task.steps / 1e9


def looked_at(on: Subject, method: Method, state: State | None) -> Subject:
    """The subject with what an adaptive method spends on each case; as it is for any other method."""
    if not method.adaptive:
        return on
    with attach.running(on.model, method, state, guided=on.task.guided):
        return replace(on, spent=tuple(with_products(on, case)[1] for case in on.cases))


def counted(on: Subject, method: Method, state: State | None, seen: limit.Seen | None = None) -> flops.FlopCount:
    """What the denoiser costs on the typical case, per image and step of the sweep. seen: takes in how many tokens the
    blocks ran on."""
    case = (on.typical[0],)
    encoder = _encoder(on.model)
    watched = nullcontext() if seen is None else seen.on(on.model.backbone)
    with attach.running(on.model, method, state, guided=on.task.guided), watched:
        return flops.count(
            on.model.backbone.transformer,
            lambda: on.task.generate(case),
            images=1,
            steps=on.task.steps,
            beside={} if encoder is None else {"encoder": encoder},
        )


def _products(on: Subject, counts: flops.FlopCount, convention: str) -> Estimate:
    """GMACs of the typical case; of an adaptive method, the mean over the cases."""
    about: dict[str, Any] = {"value": counts.gmacs, "n": counts.calls}
    if on.spent:
        about = bootstrap(on.counts)._asdict() | {"n": len(on.counts)}
        if len(on.counts) == len(on.cases):
            about["values"] = on.spent
        else:  # resampled otherwise than the images
            about["replicates"] = ()
    return Estimate(unit="GMACs", role="cost", better="lower", convention=convention, **about)


def _encoder(model: Model) -> torch.nn.Module | None:
    """What some models run once per image."""
    return getattr(model.pipeline, "encoder", None)


@contextmanager
def pairs(
    on: Subject,
    method: Method,
    state: State | None,
    dense: Method,
    rounds: int,
    theirs: list[Tensor] | None = None,
    own: list[Tensor] | None = None,
) -> Iterator[latency.Blocks]:
    """Seconds of whole images of the typical case, dense's and the method's in turn, block by block. The images go into
    `theirs`, dense's, and `own`, where these are given."""
    case = (on.typical[0],)
    guided = on.task.guided

    def into(images: list[Tensor] | None) -> Callable[[], object]:
        return lambda: on.task.generate(case) if images is None else images.append(on.task.generate(case))

    with attach.ready(on.model, method, state, guided=guided) as put_on:
        inside = [lambda: attach.running(on.model, dense, None, guided=guided), put_on]
        runs = [into(theirs), into(own)]
        yield latency.Blocks(runs, rounds, block_size(rounds), on.model.device, inside)


@contextmanager
def _limited(on: Subject, dense: Method, least: limit.Counts) -> Iterator[None]:
    with attach.running(on.model, dense, None, guided=on.task.guided), limit.dense_on(on.model.backbone, least):
        yield


def _check(images: Sequence[Tensor], dense: Sequence[Tensor], fresh: Sequence[Tensor], device: torch.device) -> None:
    """Of images of one case made at different times, as dense's were. fresh: the first ones of their attachments, if
    there are some. Raises MethodFailure for those that are no images, and for those that depend on what was made
    before."""
    if not all(torch.isfinite(one).all() for one in images):
        raise MethodFailure("images of one case alone, on which costs are measured, hold NaN or infinite values")
    # A GPU may add up in any order (scatter_reduce), which then shows in images that nothing was made before, too.
    spread = max(_ROUNDING, min(2 * _spread(fresh), 5 * _ROUNDING)) if fresh else 0.0  # float16 rounds more
    unordered = device.type == "cuda" and not _alike(fresh) and _spread((*images, *fresh)) <= spread
    if _alike(dense) and not _alike(images) and not unordered:  # else this device does not give the same bits twice
        raise MethodFailure(
            "carries state from one image to another: the same prompt and seed gave other bits after other images; "
            "reset what lives across steps with backbone.on_begin, and draw random numbers from a seed of your own"
        )


def _alike(images: Sequence[Tensor]) -> bool:
    return all(torch.equal(one, images[0]) for one in images[1:])


def _spread(images: Sequence[Tensor]) -> float:
    return max(float((one - images[0]).float().abs().mean()) for one in images)


def measured(
    on: Subject, method: Method, state: State | None, dense: Method, rounds: int, progress: Progress
) -> tuple[dict[str, Estimate], dict[str, list[float]]]:
    """Estimates of every cost, and the raw seconds behind the latency. Raises MethodFailure as `_check` does."""
    typical, chosen = on.typical
    one, model, device = (typical,), on.model, on.model.device

    behind: list[Tensor] = []  # images behind another case's
    alone: list[Tensor] = []  # the first of their attachment, but for methods that stay on
    theirs: list[Tensor] = []

    def generate() -> None:
        behind.append(on.task.generate(one))

    seen = limit.Seen()
    with memory.idle(model.backbone.blocks) as idle:
        counts = counted(on, method, state, seen)
    progress("memory", 3)
    # What stays on its own copy runs in another way than dense does here.
    least = seen.counts if limit.known(method, seen) and not method.slow_to_attach else None

    limits: list[float] = []  # a run in each block
    with pairs(on, method, state, dense, rounds, theirs, alone) as clock:

        def block() -> int:
            done = clock.block()
            if done and least is not None:
                with _limited(on, dense, least):
                    limits.append(latency.seconds(lambda: on.task.generate(one), device))
            progress("latency", 2 * done)
            return done

        block()
        on.task.encode(one)
        block()
        with attach.running(model, method, state, guided=on.task.guided):
            on.task.generate([case for case in on.cases if case.index != typical.index][-1:] or one)
            model.backbone.forget()  # what that image has left would be taken for the next one's own
            weights = memory.weights_bytes(model.modules, idle)
            peak = memory.peak(generate, device)
        block()
        encoder, vae = _encoder(model), model.pipeline.vae
        named: dict[str, latency.Part] = {"denoiser": model.backbone.transformer, "vae": (vae, "decode")}
        timer = latency.PartTimer(named | ({"encoder": encoder} if encoder is not None else {}), device)
        with attach.running(model, method, state, guided=on.task.guided), timer as parts:
            generate()
        block()
        text = latency.interleave([lambda: on.task.encode(one)], device=device, warmup=1, repeats=3)[0]
        while block():
            pass
        with attach.running(model, method, state, guided=on.task.guided):  # last: a profiler may leave a device slower
            working = worked(generate, device, "whole image")
        progress("latency", 3)
        progress("latency", 2)
        dense_s, own_s = clock.seconds
    for images in (behind, alone) if method.slow_to_attach else (behind + alone,):  # a copy is compiled for itself
        _check(images, theirs, () if method.slow_to_attach else alone, device)
    kind = latency.clock(device) + routing.note(device)
    total = weights + peak.bytes
    about = f"; {chosen}" if chosen else ""
    step = "per image and sampling step, both CFG halves, mean over the steps"
    per = f"{step}{about}"
    each = f"{step} and over images made one at a time" if on.spent else per
    notes = f"; not counted: {', '.join(counts.unknown)}" if counts.unknown else ""
    estimates = {
        "gmacs": _products(on, counts, f"every matrix product, fused attention included, {each}{notes}"),
        **timed(own_s, dense_s, f"whole image at batch 1, prompt states given, {kind}{about}", limit=limits),
        "peak_memory_mb": Estimate(
            value=total / 2**20, n=1, unit="MiB", role="cost", better="lower",
            convention=f"weights with the method on, but for blocks that never run, and {peak.convention}; one image"
            f"{about}",
        ),
    }  # fmt: skip
    estimates |= working
    if counts.gmacs_paper is not None:
        estimates["gmacs_paper"] = Estimate(
            value=counts.gmacs_paper, n=counts.calls, unit="GMACs", role="cost", better="lower",
            convention=f"fvcore's count, without products inside fused attention, {per}",
        )  # fmt: skip
    if "encoder" in counts.beside:
        estimates["gmacs_encoder"] = Estimate(
            value=counts.beside["encoder"], n=1, unit="GMACs",
            convention=f"of the image encoder, per image, once; every matrix product{about}",
        )  # fmt: skip
    shares = {f"latency_{name}_s": seconds for name, seconds in parts.seconds.items()}
    shares["latency_text_s"] = float(np.median(text))
    for name, value in shares.items():
        estimates[name] = Estimate(value=value, n=1, unit="s", convention=f"one image, {kind}")
    samples = {"latency_dense_s": dense_s, "latency_method_s": own_s}
    return estimates, samples | ({"latency_limit_s": limits} if limits else {})
