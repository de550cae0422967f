"""Put a method onto a model and take it back, for the engine and for people who have chosen one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from harness.backbones.base import Backbone
from harness.method import Method
from harness.spec import State
from harness.training import lora


def check(method: Method, backbone: Backbone) -> str:
    """Why this method cannot run on this backbone; "" where it can."""
    missing = sorted(method.parts - backbone.parts)
    return f"{type(backbone).__name__} has no separate {', '.join(missing)}" if missing else ""


@contextmanager
def attached(backbone: Backbone, method: Method, state: State | None) -> Iterator[None]:
    """The method is on inside this context; leaving it restores the model bit for bit, whatever was raised."""
    if state is None:
        with method.attach(backbone, None):
            yield
        return
    weight = next(backbone.transformer.parameters())
    own = {k: v for k, v in state.tensors.items() if not k.startswith("lora.")}
    moved = State({k: _moved(v, weight) for k, v in own.items()}, state.facts)
    with lora.merged(backbone.transformer, state.tensors), method.attach(backbone, moved):
        yield


def _moved(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return tensor.to(like.device, like.dtype if tensor.is_floating_point() else tensor.dtype)
