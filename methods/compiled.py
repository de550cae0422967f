"""torch.compile for the denoiser: a setting orthogonal to what is computed, which any method composes with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator

from harness.backbones.base import Backbone
from harness.method import Method, MethodSettings
from harness.spec import State


class CompileSettings(MethodSettings):
    by: Literal["blocks", "whole"] = Field(
        "blocks", description="what is compiled: blocks, once for all layers and every number of tokens; or the whole "
        "denoiser, which takes minutes for a large one"
    )  # fmt: skip
    mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = Field(
        "default", description="torch.compile's mode; those with CUDA graphs take by=whole"
    )  # fmt: skip

    @model_validator(mode="after")
    def _one_graph_at_a_time(self) -> Self:
        if self.by == "blocks" and self.mode in ("reduce-overhead", "max-autotune"):
            raise ValueError(
                f"mode={self.mode} captures every block into a CUDA graph of its own, and each overwrites what the "
                "one before it gave: take by=whole, mode=default or mode=max-autotune-no-cudagraphs; --mode "
                "compile+graph captures the whole step"
            )
        return self


class Compiled(Method):
    """The denoiser compiled: its blocks, with what other methods put around them left as it is, or its whole forward
    with all of that. It spares no FLOPs, which are counted without the compiler."""

    name = "compile"
    Settings = CompileSettings
    parts = frozenset()
    compresses = False
    attach_order = 3
    slow_to_attach = True
    strength = ""
    source = "Ansel et al., 2024, PyTorch 2"

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        settings: CompileSettings = self.settings  # type: ignore[assignment]
        if settings.by == "blocks":
            with backbone.compiled_blocks(settings.mode):
                yield
            return
        compiled: dict[str, Callable[..., Any]] = {}

        def faster(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if "forward" not in compiled:
                compiled["forward"] = torch.compile(forward, mode=settings.mode)
            return compiled["forward"](*args, **kwargs)

        with backbone.around(faster):
            yield
