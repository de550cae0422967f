"""The dense model, fine-tuned exactly as long as the methods that learn: the fair reference for their quality.

A learned method differs from dense in two things, the compression and the fine-tuning. This one differs in the
fine-tuning alone (the paper's fine-tuned PixArt-Sigma, Table 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from harness.backbones.base import Backbone
from harness.method import Fitting, Method, MethodSettings, SeedSettings
from harness.spec import State


class DenseFT(Method):
    """Every token goes through every layer, with fine-tuned weights (LoRA)."""

    name = "dense-ft"
    Settings = SeedSettings
    parts = frozenset()
    needs_state = True
    compresses = False
    source = "You et al., 2025, DiffCR, Table 1: the fine-tuned dense model"
    training = "trained"
    strength = ""

    def adapter(self) -> str:
        return f"{self.name}{self.seed_suffix}"

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        yield  # the engine has merged the LoRA

    def fitting(self, backbone: Backbone, steps: int, options: MethodSettings | None = None) -> Fitting:
        return Fitting(module=nn.Module(), state=lambda: State({}, {}))
