"""Put a method onto a model and take it back, for the engine and for people who have chosen one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from harness.backbones import lora
from harness.backbones.base import Backbone
from harness.backbones.following import track_sampler
from harness.errors import UserError
from harness.method import Method
from harness.models.model import Model
from harness.spec import State, Step


def check(method: Method | type[Method], family: type[Backbone]) -> str:
    """Why this method cannot run on this family of backbones; "" where it can."""
    if missing := sorted(method.parts - family.parts):
        return f"{family.__name__} has no separate {', '.join(missing)}"
    lacking = sorted(method.requires - family.capabilities)
    return f"{family.__name__} offers no {', '.join(lacking)}" if lacking else ""


@contextmanager
def attached(backbone: Backbone, method: Method, state: State | None) -> Iterator[None]:
    """The method is on inside this context; leaving it restores the model bit for bit, whatever was raised.

    LoRA goes into the weights first, that of all parts of a composition, since a part may leave fewer weights behind.
    """
    with ExitStack() as stack:
        if state is not None:
            for one in (state, *state.parts.values()):
                stack.enter_context(lora.merged(backbone.transformer, one.tensors))
            cpu_tensors = frozenset[str]().union(*(one.cpu_tensors for one in method.members()))
            state = _moved(state, next(backbone.transformer.parameters()).device, cpu_tensors)
        stack.enter_context(put_on(backbone, method, state))
        yield


@contextmanager
def put_on(backbone: Backbone, method: Method, state: State | None) -> Iterator[None]:
    """The method alone, without its LoRA. A method at ratio 0 that has no state is the model as it is."""
    if state is None and method.needs_state:
        yield
        return
    with _steps_that_it_takes(backbone, method), method.attach(backbone, state):
        yield


@contextmanager
def _steps_that_it_takes(backbone: Backbone, method: Method) -> Iterator[None]:
    """Refuses what a method that reuses earlier steps is not made for, as the sampler comes to it: several calls in one
    step, and a start in the middle."""

    def check(step: Step) -> None:
        if step.branch and "branches" not in method.copes:
            raise UserError(
                f"{method.name} keeps what it computes at one step for the next, and this pipeline calls its denoiser "
                "more than once in a step (true CFG, skip-layer guidance): leave that out, or take another method"
            )
        if backbone.start and "late start" not in method.copes:
            raise UserError(
                f"{method.name} is made for all of the sampler's steps, and this pipeline starts at step "
                f"{backbone.start + 1} of {step.count} (strength below 1)"
            )

    with backbone.on_step(check) if method.reuses else nullcontext():
        yield


def _moved(state: State, device: torch.device, cpu_tensors: frozenset[str]) -> State:
    """Without LoRA, on the device, but for what Python reads."""
    tensors = {
        name: tensor if name in cpu_tensors else tensor.to(device)
        for name, tensor in state.tensors.items()
        if not name.startswith("lora.")
    }
    parts = {name: _moved(part, device, cpu_tensors) for name, part in state.parts.items()}
    return replace(state, tensors=tensors, parts=parts)


@contextmanager
def running(model: Model, method: Method, state: State | None, *, guided: bool | None) -> Iterator[None]:
    """The method is on, and the backbone follows the pipeline's sampler. guided: see `track_sampler`."""
    with track_sampler(model.backbone, model.pipeline, guided=guided), attached(model.backbone, method, state):
        yield


@contextmanager
def ready(
    model: Model, method: Method, state: State | None, *, guided: bool | None
) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """What puts the method on, quickly: one that takes long stays on a copy of the denoiser."""
    if not method.slow_to_attach:
        yield lambda: running(model, method, state, guided=guided)
        return
    with on_copy(model, method, state, guided=guided) as (_, put_on):
        yield put_on


@contextmanager
def on_copy(
    model: Model, method: Method, state: State | None, *, guided: bool | None
) -> Iterator[tuple[Backbone, Callable[[], AbstractContextManager[None]]]]:
    """A copy of the denoiser, on which the method stays, and what lets the pipeline run it."""
    pipeline, original = model.pipeline, model.backbone.transformer
    twin = model.family(copy.deepcopy(original))

    @contextmanager
    def swapped() -> Iterator[None]:
        pipeline.transformer = twin.transformer
        try:
            with track_sampler(twin, pipeline, guided=guided):
                yield
        finally:
            pipeline.transformer = original

    with attached(twin, method, state):
        yield twin, swapped


@contextmanager
def stepping(backbone: Backbone, method: Method, state: State | None) -> Iterator[None]:
    """The method is on for single calls of the denoiser, whose batches hold both CFG halves where the family has
    them."""
    before, backbone.guided = backbone.guided, backbone.batched_cfg
    try:
        with attached(backbone, method, state):
            yield
    finally:
        backbone.guided = before


@contextmanager
def kept_on(put_on: Callable[[], AbstractContextManager[None]], slow_to_attach: bool) -> Iterator[Callable[[], Any]]:
    """What puts a method on around each run; one that is slow to attach is on already."""
    if not slow_to_attach:
        yield put_on
        return
    with put_on():
        yield nullcontext
