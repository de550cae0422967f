"""Bipartite merging of tokens (ToMe; Bolya and Hoffman, 2023, Sec. 3), in few operators that move whole rows.

One token of every window of the grid is a destination, the others are sources. Each source finds the destination most
similar to it (cosine); the `merged` sources with the highest similarity are averaged into theirs. What comes out equals
`tomesd.merge.bipartite_soft_matching_random2d`, rounding and the order of tokens apart.

Letters: B batch, N tokens, T destinations, K = N - merged, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.backbones.base import Backbone
from harness.spec import Call, Grid
from harness.tokens import Rows, of_one_length, starts


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
    """Which tokens are destinations. order: (N,) the destinations, behind them the sources, both in the order of the
    grid. count: T."""

    order: Tensor
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
    target = torch.zeros(len(at), windows.height * windows.width, device=device).scatter_(1, at.flatten(1), 1.0)
    return [Sides(order, windows.count) for order in target.argsort(dim=1, descending=True, stable=True)]


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


@dataclass(frozen=True)
class Merging:
    """Which tokens are merged with which: at most all sources.

    Tokens move as whole rows of x.flatten(0, 1), which takes a GPU a tenth of the time that elements take.

    order: (B, N) places of the sources by their similarity, and behind them of the destinations. into: (B, merged), of
    the first ones' destinations among all B K tokens that stay. count: T.
    """

    order: Tensor
    into: Tensor
    count: int

    @classmethod
    def of(cls, x: Tensor, between: Sides, merged: int) -> Merging:
        """Of tokens (B, N, D)."""
        batch, tokens, _ = x.shape
        order, count = between.order, between.count
        merged = min(merged, tokens - count)
        unit = Rows.of(order.expand(batch, -1), tokens).take(of_one_length(x))
        similarity, which = (unit[:, count:] @ unit[:, :count].transpose(1, 2)).max(-1)  # (B, N - T)
        ranked = similarity.argsort(1, descending=True)  # the first go
        first = starts(batch, tokens - merged, x.device, tokens - merged - count)  # each image's first destination
        return cls(
            torch.cat([order[count:][ranked], order[:count].expand(batch, -1)], 1),
            which.gather(1, ranked[:, :merged]) + first, count,
        )  # fmt: skip

    def merge(self, values: Tensor, mode: str = "mean") -> Tensor:
        """Values (B, K, D) of the sources that stay, then of the destinations, each with its sources, of values
        (B, N, D) of all. mode: as in `Tensor.scatter_reduce`."""
        tokens, merged, into = self.order.shape[1], self.into.shape[1], self.into.flatten()
        fewer = Rows.of(self.order[:, merged:], tokens).take(values)
        gone = Rows.of(self.order[:, :merged], tokens).take(values).flatten(0, 1)
        flat = fewer.flatten(0, 1)  # (B K, D)
        if mode not in ("mean", "sum"):
            return flat.scatter_reduce(0, into[:, None].expand_as(gone), gone, reduce=mode).view_as(fewer)
        flat.index_add_(0, into, gone)
        if mode == "mean":
            # Ones are summed as the values are: a GPU adds in their precision, which ends at 256 in bfloat16.
            kind = flat.dtype if flat.is_cuda else torch.float32
            ones, more = (_kept("ones", count, flat.device, kind) for count in (len(flat), len(into)))
            joined = ones.index_add(0, into, more).view(fewer.shape[:2])
            fewer[:, -self.count :].div_(joined[:, -self.count :, None])
        return fewer

    def unmerge(self, values: Tensor) -> Tensor:
        """Every token's own part (B, N, D) of values (B, K, D)."""
        batch, kept, _ = values.shape
        place = torch.cat([self.into, _places(batch, kept, values.device)], 1)  # of ranked tokens, (B, N)
        return Rows(self.order.scatter(1, self.order, place).flatten(), self.order.shape).take(values)


def _places(batch: int, kept: int, device: torch.device) -> Tensor:
    """0 to B K - 1, (B, K)."""
    return _kept("arange", batch * kept, device, torch.int64).view(batch, kept)


def _kept(what: str, count: int, device: torch.device, kind: torch.dtype) -> Tensor:
    """Kept between calls, apart from what a compiler traces."""
    if device.type == "meta" or torch.compiler.is_compiling():
        return _made(what, count, device, kind)
    return _made_once(what, count, device, kind)


def _made(what: str, count: int, device: torch.device, kind: torch.dtype) -> Tensor:
    make = torch.ones if what == "ones" else torch.arange
    return make(count, device=device, dtype=kind)


@functools.lru_cache(maxsize=64)
def _made_once(what: str, count: int, device: torch.device, kind: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return _made(what, count, device, kind)
