"""torch.compile for the denoiser: a setting orthogonal to what is computed, which any method composes with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pydantic import Field

from harness.backbones.base import Backbone
from harness.method import Method, MethodSettings
from harness.spec import State


class CompileSettings(MethodSettings):
    mode: Literal["default", "reduce-overhead", "max-autotune"] = Field("default", description="torch.compile's mode")


class Compiled(Method):
    """The denoiser's forward, compiled, with whatever other methods put around its parts. It spares no FLOPs, which are
    counted without the compiler."""

    name = "compile"
    Settings = CompileSettings
    parts = frozenset()
    compresses = False
    rank = 3
    lasting = True
    strength = ""
    source = "Ansel et al., 2024, PyTorch 2"

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        compiled: dict[str, Callable[..., Any]] = {}

        def faster(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if "forward" not in compiled:
                compiled["forward"] = torch.compile(forward, mode=self.settings.mode)  # type: ignore[attr-defined]
            return compiled["forward"](*args, **kwargs)

        with backbone.around(faster):
            yield
