"""Blocks compiled once for all layers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from harness.spec import RunRows

_P = ParamSpec("_P")
_R = TypeVar("_R")
FORMS = 64
"""Compiled forms of a block at most: one for every number of tokens."""


class CompiledBlocks:
    """The forward of every class of blocks, compiled: one form for every shape, which all layers of the class share.

    mode: torch.compile's."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self._of: dict[Callable[..., Any], Callable[..., Any]] = {}

    @contextmanager
    def on(self) -> Iterator[None]:
        """The compiler may make that many forms."""
        with torch._dynamo.config.patch(recompile_limit=FORMS):
            yield

    def forward(self, module: nn.Module) -> Callable[..., Any]:
        compiled = self.function(type(module).forward)

        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            # A model's first tokens may lie apart, and each layout has a form of its own.
            return compiled(module, x.contiguous(), *args, **kwargs)

        return forward

    def rows(self, run_rows: functools.partial[Tensor]) -> RunRows:
        """The fused form of a block on some of its tokens, see `Family.run_rows`: taking them and putting them back is
        compiled along."""
        compiled = self.function(run_rows.func)

        def rows(x: Tensor, order: Tensor, k: int, factor: Tensor | None = None) -> Tensor:
            out: Tensor = compiled(*run_rows.args, x.contiguous(), order, k, factor)
            return out

        return rows

    def function(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """A function, compiled; one for all who ask for it."""
        if function not in self._of:
            self._of[function] = torch.compile(function, dynamic=False, mode=self.mode)
        return self._of[function]
