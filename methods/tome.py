"""Token merging (ToMe; Bolya and Hoffman, "Token Merging for Fast Stable Diffusion", 2023)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

import torch
from pydantic import Field, model_validator
from tomesd.merge import bipartite_soft_matching_random2d
from torch import Tensor

from harness.backbones.base import Backbone
from harness.method import Method, MethodSettings
from harness.spec import Call, State
from harness.tokens import Rows
from methods.common.exempt import ExemptSettings
from methods.common.merging import Merging, Partition, Sides


class ToMeSettings(ExemptSettings):
    ratio: float = Field(0.2, ge=0.0, le=0.9, description="share of tokens merged away, at most all but one per window")
    around: Literal["mlp", "self_attention", "block"] = Field(
        "block", description="the part that runs on merged tokens"
    )
    stride: int = Field(2, ge=2, le=8, description="side of the windows that keep one destination token each")
    random: bool = Field(True, description="choose each window's destination token at random, else its first")
    matching: Literal["lean", "tomesd"] = Field(
        "lean", description="who merges: our own code, or that of the package tomesd, which gives the same in more "
        "operators"
    )  # fmt: skip
    proportional: bool = Field(
        False, description="self-attention weighs each key by how many tokens it stands for (ToMe, 2023, Eq. 1)"
    )

    @model_validator(mode="after")
    def _possible(self) -> ToMeSettings:
        most = 1 - 1 / self.stride**2
        if self.ratio > most:
            raise ValueError(f"a stride of {self.stride} merges at most {most:g} of the tokens, got {self.ratio:g}")
        if self.proportional and self.around == "mlp":
            raise ValueError("proportional attention needs merging around self_attention or block, got around 'mlp'")
        return self


class ToMe(Method):
    """Merge the most similar tokens before a part, run it on the rest, and copy the results back.

    Around `block`, what is copied back is the block's update, so that merged tokens keep their own residual.
    """

    name = "tome"
    Settings = ToMeSettings
    source = "Bolya and Hoffman, 2023, Token Merging for Fast Stable Diffusion"
    selects = "changing"

    def __init__(self, settings: MethodSettings | None = None) -> None:
        super().__init__(settings)
        chosen: ToMeSettings = self.settings  # type: ignore[assignment]
        self.parts = frozenset({chosen.around, *(("self_attention",) if chosen.proportional else ())})  # type: ignore[misc]
        self.requires = frozenset({"weighed keys"} if chosen.proportional else ())  # type: ignore[misc]

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        settings: ToMeSettings = self.settings  # type: ignore[assignment]
        partition = Partition(settings.stride, fixed=not settings.random)
        layers = settings.layers_of(backbone.layers)
        weights: list[Tensor] = []  # (B, K) of the block that runs

        def matched(x: Tensor, call: Call, merged: int) -> tuple[Merging | _Package, Tensor]:
            if settings.matching == "tomesd":
                package = _Package(x, call, merged, partition)
                return package, package.merge(x)
            on_grid = call.index is None
            between = partition.of(call) if on_grid else partition.along(x.shape[1], x.device)
            return backbone.compiled(_matched)(x, between, merged)

        def advice(call: Call) -> Tensor:
            merged = int(settings.ratio * call.x.shape[1])
            if not merged or not settings.runs(call.step):
                return call.run(call.x)
            # A subset of the grid is a line of tokens; it comes in any order.
            order = call.index.argsort(1) if call.index is not None else None  # (B, N)
            line = Rows.of(order, call.x.shape[1]) if order is not None else None
            x = call.x if line is None else line.take(call.x)  # (B, N, D)
            pairs, fewer = matched(x, call, merged)  # (B, N - merged, D)
            # A merged token stands where the first of its tokens does, for those who ask; K is N - merged.
            index = pairs.merge(_places(x), "amin")[..., 0].long() if backbone.uses_positions else None  # (B, K)
            if order is not None and index is not None:
                index = order.gather(1, index)
            sizes = pairs.merge(x.new_ones(*x.shape[:2], 1), "sum")[..., 0] if settings.proportional else None
            if call.part != "block":
                out = pairs.unmerge(call.run(fewer, index, sizes))
            else:
                weights[:] = [] if sizes is None else [sizes]
                try:
                    out = call.run(fewer, index)
                    added = _added if isinstance(pairs, _Package) else backbone.compiled(_added)
                    out = added(pairs, out, fewer, x)
                finally:
                    weights.clear()
            return out if line is None else line.put(call.x, out)

        def weighed(call: Call) -> Tensor:
            return call.run(call.x, sizes=weights[0] if weights else None)

        with ExitStack() as stack:
            stack.enter_context(partition.on(backbone, layers))
            stack.enter_context(backbone.advise(settings.around, advice, layers))
            if settings.proportional and settings.around == "block":
                stack.enter_context(backbone.advise("self_attention", weighed, layers))
            yield

    def effective_ratio(self, state: State | None) -> float | None:
        return self.ratio if self.settings.everywhere else None  # type: ignore[attr-defined]


class _Package:
    """`tomesd`'s own matching, with the same destinations."""

    def __init__(self, x: Tensor, call: Call, merged: int, partition: Partition) -> None:
        side, grid = partition.stride, call.grid
        width, height, across, down = (
            (grid.width, grid.height, side, side) if call.index is None else (x.shape[1], 1, side**2, 1)
        )
        self._merge, self.unmerge = bipartite_soft_matching_random2d(
            x, width, height, across, down, merged, no_rand=partition.fixed, generator=partition.generator
        )

    def merge(self, x: Tensor, mode: str = "mean") -> Tensor:
        return self._merge(x, mode=mode)


def _matched(x: Tensor, between: Sides, merged: int) -> tuple[Merging, Tensor]:
    """Which tokens of x (B, N, D) are merged, and what they are then, (B, N - merged, D)."""
    pairs = Merging.of(x, between, merged)
    return pairs, pairs.merge(x)


def _added(pairs: Merging | _Package, out: Tensor, fewer: Tensor, x: Tensor) -> Tensor:
    """x (B, N, D) with the update of what its tokens were merged into, from fewer to out (B, N - merged, D)."""
    # In this order: a sum has the layout of its first operand, and a model's first tokens lie apart.
    return pairs.unmerge(out - fewer) + x


def _places(x: Tensor) -> Tensor:
    """0 to N - 1 for tokens (B, N, D): (B, N, 1)."""
    return torch.arange(x.shape[1], device=x.device, dtype=torch.float32)[None, :, None].expand(len(x), -1, -1)
