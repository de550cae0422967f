"""Plain types that every part of the harness shares. Imports nothing of ours.

Letters: B batch (CFG halves included), N tokens, K kept tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor

Part = Literal["block", "self_attention", "cross_attention", "mlp"]
Ability = Literal["attention maps", "narrower blocks", "weighed keys"]


@dataclass(frozen=True)
class Grid:
    """The image tokens' layout; token (row, column) stands at row * width + column."""

    height: int
    width: int

    @property
    def tokens(self) -> int:
        return self.height * self.width


@dataclass(frozen=True)
class Step:
    """Where the sampler is. `index` counts from 0 (the noisiest step) to `count` - 1. branch: which of several calls of
    the denoiser at this step, as guidance in calls of its own makes them."""

    index: int
    count: int
    timestep: float
    branch: int = 0


class Run(Protocol):
    """The original part on some tokens: x (B, K, D), and which tokens they are, index (B, K), where it is a subset.
    sizes: (B, K) how many tokens each stands for, which self-attention weighs its keys by."""

    def __call__(self, x: Tensor, index: Tensor | None = None, sizes: Tensor | None = None) -> Tensor: ...


class RunRows(Protocol):
    """A block on some tokens of x (B, N, D), put back into a copy of x, in few launches: see `harness.kernels.routing`.

    order: (B, M), whose first k are the tokens; with M = N, the others follow. factor: (B, K) times the MLP branch.
    """

    def __call__(self, x: Tensor, order: Tensor, k: int, factor: Tensor | None = None) -> Tensor: ...


@dataclass
class Call:
    """One call of one part of one block, as an advice sees it.

    x: (B, N, D) what goes in. run: the original part, on all tokens or on a subset. conditioning: what else the
    part was given (text states, timestep embedding), by the backbone's own names. index: (B, N) which tokens of the
    grid x holds, where an outer advice or the model itself took a subset; None: all of them. text: (B, L, D) the text
    stream that a joint part takes along; None elsewhere. Advice leaves it alone: it comes out as the last `run` left
    it, and where nothing ran, a block passes it on as it came and another part adds nothing to it. run_rows: the same
    as `run` on a subset, put back into x, where that can be fused here; see `harness.tokens.fused`.
    """

    x: Tensor
    layer: int
    part: Part
    step: Step
    grid: Grid
    run: Run
    conditioning: Mapping[str, Any] = field(default_factory=dict)
    index: Tensor | None = None
    text: Tensor | None = None
    run_rows: RunRows | None = None


Advice = Callable[[Call], Tensor]


@dataclass(frozen=True)
class State:
    """What a fit leaves behind: tensors by name, and facts that are plain JSON. parts: the states of the methods that a
    composition is made of, by their names."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, State] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One image to make: the same for every operating point. digest: of those data that are not made from the seed and
    the prompt alone."""

    index: int
    prompt: str
    seed: int
    data: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""


CALIBRATION_SEEDS = 500_000
"""The first seed of calibration cases that come with a model, so that no evaluation starts from the noise of one of
them: it has seeds from 0 on, or from a multiple of a million on (`--seed`)."""

Progress = Callable[[str, int], None]
"""Called with what is being done and how many images were just made."""
