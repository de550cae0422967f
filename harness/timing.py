"""Latency of whole images in a mode of execution other than eager, beside dense in the same mode."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor

from harness import attach, limit, modes
from harness.backbones.base import Backbone
from harness.cost import Subject
from harness.errors import MethodFailure
from harness.kernels import routing
from harness.latency_estimates import timed, worked
from harness.measure import latency
from harness.method import Method
from harness.spec import Progress, State
from harness.sweep import Mode
from results.analysis.modes import named
from results.analysis.statistics import block_size
from results.record import Estimate

PutOn = Callable[[], AbstractContextManager[object]]


def images(rounds: int) -> int:
    """How many images `measured` makes, limits apart: the unit of progress."""
    return 2 * (rounds + 1) + 2


def measured(
    mode: Mode, on: Subject, method: Method, state: State | None, dense: Method, rounds: int, progress: Progress
) -> tuple[dict[str, Estimate], dict[str, list[float]]]:
    """Estimates of the latency of one image, with its limit where the method has one, and the raw seconds behind it;
    the mode is in their names. The method stays on a copy of the denoiser, so that nothing is compiled or captured
    anew when it is put on. Raises what cannot be compiled or captured, for `modes.why`."""
    if reason := modes.refusal(mode, method):
        raise modes.CapturedError(reason)
    if "compile" in mode:
        torch._dynamo.reset()  # the forms of other points count towards the most that there may be
    typical, chosen = on.typical
    model, device, guided, one = on.model, on.model.device, on.task.guided, (typical,)
    made: list[Tensor] = []
    limits: list[float] = []

    def generate() -> None:
        made[:] = [on.task.generate(one)]

    def bare() -> AbstractContextManager[None]:
        return attach.running(model, dense, None, guided=guided)

    seen = limit.Seen()
    with (
        torch.compiler.set_stance("force_eager"),
        attach.running(model, method, state, guided=guided),
        seen.on(model.backbone, parts="graph" in mode),
    ):
        generate()
    progress("latency", 1)
    least = limit.known(method, seen) and not method.slow_to_attach  # as in eager mode
    with (
        attach.on_copy(model, method, state, guided=guided) as (own, put_on),
        modes.compiling(mode, [model.backbone, own]),
    ):
        inside = [
            _executed(mode, model.backbone, bare, limit.Seen()),
            _executed(mode, own, put_on, seen),
        ]
        limited = _executed(mode, model.backbone, partial(_limited, bare, model.backbone, seen.counts), seen)
        if least:
            with limited():  # the first run compiles and captures
                generate()
        clock = latency.Blocks([generate, generate], rounds, block_size(rounds), device, inside)
        while done := clock.block():
            if least:
                with limited():
                    limits.append(latency.seconds(generate, device))
            progress("latency", 2 * done)
            on.task.encode(one)
        dense_s, own_s = clock.seconds
        about = f"whole image at batch 1, prompt states given, {latency.clock(device)}, mode {mode}"
        about += routing.note(device, mode) + (f"; {chosen}" if chosen else "")
        with inside[1]():
            generate()
            working = worked(generate, device, about)
        progress("latency", 3)
    if not torch.isfinite(made[0]).all():
        raise MethodFailure("the image holds NaN or infinite values in this mode alone")
    estimates = timed(own_s, dense_s, about, limit=limits) | working
    samples = {"latency_dense_s": dense_s, "latency_method_s": own_s}
    samples |= {"latency_limit_s": limits} if limits else {}
    return (
        {named(name, mode): estimate for name, estimate in estimates.items()},
        {named(name, mode): values for name, values in samples.items()},
    )


def in_modes(
    asked: Sequence[Mode], on: Subject, method: Method, state: State | None, dense: Method, rounds: int,
    progress: Progress,
) -> tuple[dict[str, Estimate], dict[str, list[float]], list[str]]:  # fmt: skip
    """The same in several modes, and why it failed in some: the others, and all that was measured before, stay."""
    estimates: dict[str, Estimate] = {}
    samples: dict[str, list[float]] = {}
    lost = []
    own = set[str]().union(*(one.files() for one in method.members()))
    for mode in asked:
        progress(f"latency, {mode}", 0)
        try:
            found, raw = measured(mode, on, method, state, dense, rounds, progress)
        except Exception as error:
            lost.append(f"mode {mode}: {modes.why(error, mode, own)}")
            found, raw = {}, {}
        if not found and on.model.device.type == "cuda":  # here, since the error's frames held tensors
            torch.cuda.empty_cache()
        estimates, samples = estimates | found, samples | raw
    return estimates, samples, lost


def _executed(mode: Mode, backbone: Backbone, put_on: PutOn, seen: limit.Seen) -> PutOn:
    """What puts something on and has the denoiser's calls replayed, where the mode says so. seen: the tokens that
    blocks and their parts run on, by which steps are of one region."""

    def region() -> Hashable:
        step = backbone.step
        places = [(step.index, layer) for layer in range(backbone.layers)]
        inside = (tuple(sorted(seen.inside.get(place, {}).items())) for place in places)
        return step.branch, tuple(map(seen.counts.get, places)), tuple(inside)

    graphs = modes.Graphs(region) if "graph" in mode else None

    @contextmanager
    def inside() -> Iterator[None]:
        with put_on(), backbone.around(graphs) if graphs is not None else nullcontext():
            yield

    return inside


@contextmanager
def _limited(bare: PutOn, backbone: Backbone, counts: limit.Counts) -> Iterator[None]:
    with bare(), limit.dense_on(backbone, counts):
        yield
