"""What a profile measures: a denoiser, a method with its state, and the inputs of a step."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from harness.backbones.base import Backbone
from harness.leftovers import Snapshot
from harness.method import Method
from harness.models.model import Model
from harness.spec import State
from harness.sweep import Mode

_SEED = 0


@dataclass
class Subject:
    """A denoiser on its device. build: makes it anew. size: side of its latents by default; None: the family's own.
    text_source: where the number of text tokens comes from. model: what has fitted adapters, unless weights are random.
    """

    backbone: Backbone
    device: torch.device
    size: int | None
    text_tokens: int
    text_source: str
    digest: str
    build: Callable[[], Backbone]
    model: Model | None = None
    _untouched: Snapshot | None = None

    def remember(self) -> None:
        """Look at the denoiser before anything is put on it, for `left_behind`."""
        self._untouched = self._untouched or Snapshot.of({"transformer": self.backbone.transformer})

    def left_behind(self) -> list[str]:
        """What differs in the denoiser from when it was remembered, in words; there is a new one then."""
        assert self._untouched is not None
        if changes := self._untouched.changes({"transformer": self.backbone.transformer}):
            self._untouched = None
            del self.backbone  # it need not stay beside the new one
            gc.collect()
            self.backbone = self.build()
        return changes


@dataclass(frozen=True)
class Candidate:
    """A method and its state.

    state_source: where the state comes from, in words.
    steps: how many sampling steps have a cost of their own.
    digest: of an adapter or a table of ratios that the state comes from.
    """

    method: Method
    state: State | None
    state_source: str
    steps: int = 1
    digest: str = ""


@dataclass(frozen=True)
class Setup:
    """The inputs of a step: images per batch, side of the latents, tokens to generate where the model takes some; and
    how it is executed."""

    batch: int
    size: int | None
    text_tokens: int
    mask_tokens: int | None
    mode: Mode = "eager"


def settings_of(setup: Setup) -> dict[str, Any]:
    """As a record keeps them."""
    found: dict[str, Any] = {"batch": setup.batch, "size": setup.size, "text_tokens": setup.text_tokens}
    found |= {"mask_tokens": setup.mask_tokens} if setup.mask_tokens is not None else {}
    return found | ({"mode": setup.mode} if setup.mode != "eager" else {})


def inputs(backbone: Backbone, setup: Setup) -> dict[str, Any]:
    """The same random ones for every method; the global random state stays as it is. Raises UserError for what the
    family does not take."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(_SEED)
        rows = setup.batch * backbone.rows_per_image
        return backbone.inputs(rows, text_tokens=setup.text_tokens, size=setup.size, tokens=setup.mask_tokens)
