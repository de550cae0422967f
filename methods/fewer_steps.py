"""Fewer sampler steps: the dense model, called less often. A baseline that papers often omit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import Field

from harness.backbones.base import Backbone
from harness.method import Method, MethodSettings
from harness.spec import State


class FewerStepsSettings(MethodSettings):
    spared: float = Field(0.2, ge=0.0, le=0.95, description="share of the sampler's steps that are left out")


class FewerSteps(Method):
    """The sampler spaces fewer steps over the same noise levels; nothing else changes."""

    name = "fewer-steps"
    Settings = FewerStepsSettings
    parts = frozenset()
    strength = "spared"
    sweep = (0.1, 0.2, 0.3)
    source = "the sampler's own step count, e.g. Lu et al., 2022, DPM-Solver++"

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        settings: FewerStepsSettings = self.settings  # type: ignore[assignment]
        with backbone.reduced_steps(lambda steps: max(1, round((1 - settings.spared) * steps))):
            yield
