"""A method on a tiny model, with the adapter state that it needs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from harness.attach import attached
from harness.method import Method
from harness.models.tiny import Tiny
from harness.spec import State

RATIO = 0.3


def build(cls: type[Method], settings: dict[str, Any], ratio: float = RATIO) -> Method:
    """The method at a compression ratio, where it has one and the settings name none."""
    given = {"ratio": ratio, **settings} if "ratio" in cls.Settings.model_fields else settings
    return cls(cls.Settings.model_validate(given))


def state_for(method: Method, tiny: Tiny) -> State | None:
    """A made-up adapter state; None for a method that needs none. Raises UserError where the method makes up none."""
    if not method.needs_state:
        return None
    if len(members := method.members()) > 1:
        found = {one.name: state_for(one, tiny) for one in members}
        return State(parts={name: state for name, state in found.items() if state is not None})
    table = torch.full((tiny.backbone.layers, 2), method.ratio or 0.0)  # (layers, timestep regions)
    return method.dummy_state(tiny.backbone, table)


@dataclass
class Subject:
    """A method at its settings on one tiny model."""

    cls: type[Method]
    settings: dict[str, Any]
    tiny: Tiny

    @cached_property
    def method(self) -> Method:
        return build(self.cls, self.settings)

    @cached_property
    def state(self) -> State | None:
        return state_for(self.method, self.tiny)

    @cached_property
    def dense(self) -> Tensor:
        """The latents of one image without the method."""
        return self.tiny.generate()

    def draw(self, images: int = 1, seed: int = 0, size: int | None = None) -> Tensor:
        """Latents of so many images under the method, which is put on and taken off."""
        with attached(self.tiny.backbone, self.method, self.state):
            return self.tiny.generate(images, seed, size)
