"""Put a method onto a model and take it back, for the engine and for people who have chosen one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

from harness.backbones.base import Backbone
from harness.method import Method
from harness.spec import State
from harness.training import lora


def check(method: Method | type[Method], family: type[Backbone]) -> str:
    """Why this method cannot run on this family of backbones; "" where it can."""
    if missing := sorted(method.parts - family.parts):
        return f"{family.__name__} has no separate {', '.join(missing)}"
    lacking = sorted(method.needs - family.offers)
    return f"{family.__name__} offers no {', '.join(lacking)}" if lacking else ""


@contextmanager
def attached(backbone: Backbone, method: Method, state: State | None) -> Iterator[None]:
    """The method is on inside this context; leaving it restores the model bit for bit, whatever was raised. A method at
    ratio 0 that has no state is the model as it is."""
    if state is None:
        with nullcontext() if method.needs_state else method.attach(backbone, None):
            yield
        return
    device = next(backbone.transformer.parameters()).device
    tensors = {k: v.to(device) for k, v in state.tensors.items() if not k.startswith("lora.")}
    moved = replace(state, tensors=tensors)
    with lora.merged(backbone.transformer, state.tensors), method.attach(backbone, moved):
        yield
