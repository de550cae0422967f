"""The reference: the model as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.backbones.base import Backbone
from harness.method import Method, MethodSettings
from harness.spec import State


class Dense(Method):
    """Every token goes through every block."""

    name = "dense"
    Settings = MethodSettings
    parts = frozenset()
    compresses = False
    strength = ""

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        yield
