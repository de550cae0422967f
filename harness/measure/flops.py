"""Multiply-accumulates of a denoiser under two conventions, in GMACs (1e9 MACs) per image and sampling step.

- `gmacs`: every matrix product that is executed, fused attention and a method's own overhead included.
- `gmacs_paper`: fvcore's total, as papers report it: nothing inside fused attention, but normalisation layers.

CFG halves are included in both, and both are averages over the steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from harness.measure.fvcore_counter import Traced, trace
from harness.measure.torch_counter import Executed, counting
from harness.patching import wrapped

_GIGA = 1e9
_TOLERANCE = 0.005


@dataclass(frozen=True)
class FlopCount:
    """The cost of one generation, in GMACs per image and sampling step unless said otherwise."""

    gmacs: float
    gmacs_paper: float | None
    """None where the model cannot be traced; `unknown` then says why."""
    calls: int
    """Calls of the denoiser: the sampling steps."""
    images: int
    by_operator: dict[str, float]
    """Operator -> its share of `gmacs`."""
    per_call: tuple[float, ...]
    """GMACs per image of each call, in order."""
    unknown: tuple[str, ...]
    """Matrix-like work that a column misses: "gmacs: <operator>" or "gmacs_paper: <operator or reason>"."""
    beside: dict[str, float] = field(default_factory=dict)
    """GMACs per image of further modules, over the whole generation."""


def count(
    module: nn.Module,
    run: Callable[[], object],
    *,
    images: int,
    steps: int | None = None,
    beside: Mapping[str, nn.Module] | None = None,
) -> FlopCount:
    """Count what `module.forward` costs in `run()`: a whole generation of `images` images, one call per sampling step.

    `run` is called twice and must do the same work both times. The first time, the executed operators of every call are
    counted and the calls grouped by their work and input shapes. The second time, the first call of every group runs
    under fvcore's trace, in its place: nothing is replayed, so neither a step counter nor a method's state across steps
    is disturbed. Gradients are off; both runs start from the same global random state, which is untouched afterwards.
    The two counters check each other: where they differ by more than 0.5 %, `unknown` says so.

    steps: the sampling steps that the total is divided by, where a method may call the module less often than that.
    beside: further modules by name, whose matrix products are counted on the way. What torch.compile has made runs
    uncompiled.

    Raises ValueError where `images` is not positive or `run` never calls the module, and what the first run raises.
    """
    if images < 1:
        raise ValueError(f"images must be at least 1, not {images}")
    with torch.compiler.set_stance("force_eager"):
        return _count(module, run, images, steps, beside or {})


@contextmanager
def tallied(module: nn.Module) -> Iterator[list[int]]:
    """The multiply-accumulates that `module.forward` executes inside this context, call by call, for all images of its
    batch together. Slows it down: never time it meanwhile."""
    calls: list[int] = []

    def counted(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with counting() as executed:
            output = forward(*args, **kwargs)
        calls.append(executed.total)
        return output

    with torch.compiler.set_stance("force_eager"), wrapped(module, "forward", counted):
        yield calls


def _count(
    module: nn.Module,
    run: Callable[[], object],
    images: int,
    steps: int | None,
    beside: Mapping[str, nn.Module],
) -> FlopCount:
    others = dict.fromkeys(beside, 0)

    def tally(name: str, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with counting() as executed:
            output = forward(*args, **kwargs)
        others[name] += executed.total
        return output

    with ExitStack() as stack:
        for name, other in beside.items():
            stack.enter_context(wrapped(other, "forward", partial(tally, name)))
        calls, signatures = _executed(module, run)
    if not calls:
        raise ValueError(f"the run never called the forward of {type(module).__name__}: nothing to count")
    unit, per = _GIGA * images, steps or len(calls)
    operators: Counter[str] = Counter()
    for call in calls:
        operators.update(call.macs)
    unknown = {f"gmacs: {name}" for call in calls for name in call.unknown}
    paper: float | None = None
    try:
        traces = _traced(module, run, calls, signatures)
        paper = sum(traces[signature].macs for signature in signatures) / per / unit
        unknown |= {f"gmacs_paper: {name}" for traced in traces.values() for name in traced.unknown}
        unknown |= _disagreements(calls, signatures, traces)
    except Exception as error:  # the same work has just succeeded: it is the tracer that cannot follow
        unknown.add(f"gmacs_paper: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
    return FlopCount(
        gmacs=sum(operators.values()) / per / unit,
        gmacs_paper=paper,
        calls=len(calls),
        images=images,
        by_operator={name: macs / per / unit for name, macs in sorted(operators.items())},
        per_call=tuple(call.total / unit for call in calls),
        unknown=tuple(sorted(unknown)),
        beside={name: macs / unit for name, macs in others.items()},
    )


def _generate(module: nn.Module, run: Callable[[], object], around: Callable[..., Any]) -> None:
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices), torch.no_grad(), wrapped(module, "forward", around):
        run()


def _executed(module: nn.Module, run: Callable[[], object]) -> tuple[list[Executed], list[Any]]:
    calls: list[Executed] = []
    shapes: list[Any] = []

    def counted(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with counting() as executed:
            output = forward(*args, **kwargs)
        calls.append(executed)
        shapes.append(tuple(_describe(leaf) for leaf in pytree.tree_leaves((args, kwargs))))
        return output

    _generate(module, run, counted)
    signatures = [(tuple(sorted(call.macs.items())), shape) for call, shape in zip(calls, shapes, strict=True)]
    return calls, signatures


def _traced(
    module: nn.Module, run: Callable[[], object], calls: list[Executed], signatures: list[Any]
) -> dict[Any, Traced]:
    traces: dict[Any, Traced] = {}
    index = 0

    def traced(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal index
        here, index = index, index + 1
        if here >= len(calls):
            raise RuntimeError(f"the second run called the module more than {len(calls)} times")
        if signatures[here] in traces:
            return forward(*args, **kwargs)
        result = trace(module, forward, args, kwargs, calls[here].trainable.values())
        traces[signatures[here]] = result
        return result.output

    _generate(module, run, traced)
    if index != len(calls):
        raise RuntimeError(f"the second run called the module {index} times, not {len(calls)}")
    return traces


def _disagreements(calls: list[Executed], signatures: list[Any], traces: dict[Any, Traced]) -> set[str]:
    executed = {signature: call.total for signature, call in zip(signatures, calls, strict=True)}
    return {
        f"gmacs_paper: fvcore sees {traced.products:.6g} MACs with attention, {executed[signature]:.6g} were executed"
        for signature, traced in traces.items()
        if abs(traced.products - executed[signature]) > _TOLERANCE * executed[signature]
    }


def _describe(leaf: object) -> object:
    return (tuple(leaf.shape), str(leaf.dtype)) if isinstance(leaf, Tensor) else type(leaf).__name__
