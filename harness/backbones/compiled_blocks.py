"""Blocks compiled once for all layers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from harness.kernels import routing

_SHAPES = 64
"""Compiled forms of a block at most: one for every number of tokens."""


class CompiledBlocks:
    """The forward of every class of blocks, compiled: one form for every shape, which all layers of the class share.

    mode: torch.compile's."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self._of: dict[type[nn.Module], Callable[..., Any]] = {}

    @contextmanager
    def on(self) -> Iterator[None]:
        """The compiler may make that many forms, and our kernels leave fusing to it."""
        with torch._dynamo.config.patch(recompile_limit=_SHAPES), routing.using("plain"):
            yield

    def forward(self, module: nn.Module) -> Callable[..., Any]:
        kind = type(module)
        if kind not in self._of:
            self._of[kind] = torch.compile(kind.forward, dynamic=False, mode=self.mode)
        return functools.partial(self._of[kind], module)
