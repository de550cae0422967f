"""Bipartite merging of tokens (ToMe; Bolya and Hoffman, 2023, Sec. 3), with as few operators as it takes.

One token of every window of the grid is a destination, the others are sources. Each source finds the destination most
similar to it (cosine); the `merged` sources with the highest similarity are averaged into theirs. What comes out equals
`tomesd.merge.bipartite_soft_matching_random2d`, rounding and the order of tokens apart.

Letters: B batch, N tokens, T destinations, K = N - merged, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.backbones.base import Backbone
from harness.spec import Call, Grid
from harness.tokens import Rows


@dataclass(frozen=True)
class Windows:
    """Windows of `down` x `across` tokens on a grid of `height` x `width`."""

    height: int
    width: int
    down: int
    across: int

    @property
    def shape(self) -> tuple[int, int]:
        """Windows that lie wholly on the grid, by row and column."""
        return self.height // self.down, self.width // self.across

    @property
    def count(self) -> int:
        rows, columns = self.shape
        return rows * columns

    @property
    def size(self) -> int:
        return self.down * self.across


@dataclass(frozen=True)
class Sides:
    """Which tokens are destinations. order: (N,) destinations, then sources. back: (N,) the inverse of `order`.
    places: (N,) 0 to N - 1. count: T."""

    order: Tensor
    back: Tensor
    places: Tensor
    count: int


def sides(windows: Windows, chosen: Tensor, device: torch.device) -> list[Sides]:
    """For each of L choices: which token of each window is its destination, chosen (L, windows), row by row within a
    window. Only that goes to the device, where the rest is made without waiting."""
    rows, columns = windows.shape
    top = torch.arange(rows, device=device)[:, None] * windows.down
    left = torch.arange(columns, device=device)[None] * windows.across
    place = (chosen.pin_memory() if device.type == "cuda" else chosen).to(device, non_blocking=True)
    place = place.view(-1, rows, columns)
    at = (top + place // windows.across) * windows.width + left + place % windows.across  # (L, rows, columns)
    tokens = windows.height * windows.width
    target = torch.zeros(len(at), tokens, dtype=torch.int64, device=device).scatter_(1, at.flatten(1), 1)
    among = target.cumsum(1)  # (L, N)
    places = torch.arange(tokens, device=device)
    # In the order of the grid: the destinations, behind them the sources.
    back = torch.where(target.bool(), among - 1, windows.count + places - among)
    order = torch.empty_like(back).scatter_(1, back, places.expand_as(back))
    return [Sides(o, b, places, windows.count) for o, b in zip(order, back, strict=True)]


def _form(sides: Sides) -> tuple[object, ...]:
    return sides.order.shape, sides.count, sides.order.device, sides.order.is_inference()


class Partition:
    """Which token of each window is a destination: drawn anew for every layer and step, the same for all images, on all
    devices. They are there before the first block of a step runs, so that a step can be captured.

    stride: side of the windows. fixed: each window's first token, instead.
    """

    def __init__(self, stride: int, *, fixed: bool = False) -> None:
        self.stride, self.fixed = stride, fixed
        self.generator = torch.Generator()
        self._of: dict[int, Sides] = {}
        self._step = -1

    @contextmanager
    def on(self, backbone: Backbone, layers: Sequence[int]) -> Iterator[None]:
        """Draw before every step of this backbone, for these layers."""

        def begin() -> None:
            self.generator.manual_seed(0)
            self._step = -1

        @torch.compiler.disable
        def enter(latents: Tensor) -> None:
            if backbone.step.index != self._step:
                self._step = backbone.step.index
                windows = self._windows(backbone.grid)
                self._keep(layers, sides(windows, self.drawn(windows, len(layers)), latents.device))

        begin()
        with backbone.on_begin(begin), backbone.on_call(enter):
            yield

    def _keep(self, layers: Sequence[int], drawn: Sequence[Sides]) -> None:
        """In the place of those of the step before, where graphs read them; a grid of another size has others."""
        for layer, new in zip(layers, drawn, strict=True):
            old = self._of.get(layer)
            if old is not None and _form(old) == _form(new):
                old.order.copy_(new.order)
                old.back.copy_(new.back)
            else:
                self._of[layer] = new

    def of(self, call: Call) -> Sides:
        """On the grid, at the step that runs; drawn now where a part is called by itself."""
        if call.layer not in self._of:
            windows = self._windows(call.grid)
            self._of[call.layer] = sides(windows, self.drawn(windows, 1), call.x.device)[0]
        return self._of[call.layer]

    def _windows(self, grid: Grid) -> Windows:
        return Windows(grid.height, grid.width, self.stride, self.stride)

    def along(self, tokens: int, device: torch.device) -> Sides:
        """On a line of so many tokens, with windows as large as the squares."""
        windows = Windows(1, tokens, 1, self.stride**2)
        return sides(windows, self.drawn(windows, 1), device)[0]

    def drawn(self, windows: Windows, layers: int) -> Tensor:
        """(layers, windows)."""
        if self.fixed:
            return torch.zeros(layers, windows.count, dtype=torch.int64)
        return torch.randint(windows.size, (layers, windows.count), generator=self.generator)


class Merging:
    """Which tokens of x (B, N, D) are merged with which: at most all sources."""

    def __init__(self, x: Tensor, between: Sides, merged: int) -> None:
        count, tokens = between.count, x.shape[1]
        self.count, self.merged = count, min(merged, tokens - count)
        self._between = between
        self._ordered = ordered = x.index_select(1, between.order)  # (B, N, D)
        unit = ordered / ordered.norm(dim=-1, keepdim=True)
        nearest, which = (unit[:, count:] @ unit[:, :count].transpose(1, 2)).max(-1)  # (B, N - T)
        # All of it is needed: which go, and where the others are.
        ranked = nearest.argsort(1, descending=True)
        self._gone, self._stay = ranked[:, : self.merged], ranked[:, self.merged :]
        self._into = which.gather(1, self._gone)  # (B, merged)
        self._ranked = ranked

    def merge(self, x: Tensor | None = None, mode: str = "mean") -> Tensor:
        """Tokens (B, K, D): the destinations, each with its sources, then the sources that stay. x: (B, N, D) other
        values of the same tokens, by default those that were matched. mode: as in `Tensor.scatter_reduce`."""
        ordered = self._ordered if x is None else x.index_select(1, self._between.order)
        targets, sources = ordered[:, : self.count], ordered[:, self.count :]
        width = ordered.shape[-1]

        def of(index: Tensor) -> Tensor:
            return index[..., None].expand(-1, -1, width)

        joined = targets.scatter_reduce(1, of(self._into), sources.gather(1, of(self._gone)), reduce=mode)
        return torch.cat([joined, sources.gather(1, of(self._stay))], 1)

    def unmerge(self, values: Tensor) -> Tensor:
        """Every token's own part (B, N, D) of values (B, K, D)."""
        places, count = self._between.places, self.count
        rest = places[count : count + self._stay.shape[1]].expand_as(self._stay)
        of_sources = torch.zeros_like(self._ranked).scatter_(1, self._ranked, torch.cat([self._into, rest], 1))
        at = torch.cat([places[:count].expand(len(values), -1), of_sources], 1)  # destinations first, (B, N)
        return Rows.of(at.index_select(1, self._between.back), values.shape[1]).take(values)
