"""Differentiable compression ratios (DiffCR, Sec. 3.2 and 3.3).

Each ratio is a continuous scalar that starts at 0. Bins are its proxies: in training the block runs with the two bins
around the ratio and the results are mixed by proximity, so that the gradient reaches the ratio through the mixing
weight; at inference the nearest bin runs alone.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

Rounding = Literal["nearest", "balanced"]
HIGHEST = 0.9  # at least a tenth of the tokens goes through, the clamp of the authors' pseudocode


def region_of(index: int, count: int, regions: int) -> int:
    """The timestep region of sampling step `index` of `count`: steps are divided evenly, noisiest first."""
    return min(index * regions // count, regions - 1)


class Ratios(nn.Module):
    """values: (layers, regions), initialised at 0 (nothing compressed).

    together: how much of each ratio's gradient the other regions of its layer follow. A step sees one region, so a
    layer's gradient is heard `regions` times as often as one region's; as (identity + together * ones) is positive
    definite, the stationary points stay where they are. flat: all layers share their ratios.
    """

    def __init__(
        self, layers: int, regions: int, bin_width: float = 0.1, together: float = 0.0, *, flat: bool = False
    ) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(layers, regions))
        self.bin_width = bin_width
        if together and regions > 1:
            self.values.register_hook(lambda grad: grad + together * grad.sum(1, keepdim=True))
        if flat:
            self.values.register_hook(lambda grad: grad.mean(0, keepdim=True).expand_as(grad))

    @property
    def regions(self) -> int:
        return self.values.shape[1]

    def bracket(self, layer: int, region: int) -> tuple[float, float, Tensor]:
        """The two bins around a ratio and the upper one's share: 12 % -> (10 %, 20 %, 0.2)."""
        value = self.values[layer, region]
        last = round(HIGHEST / self.bin_width) - 1
        lower = min(max(math.floor(float(value.detach()) / self.bin_width + 1e-6), 0), last)
        share = value / self.bin_width - lower  # in 0..1, as `clamp` keeps the ratio inside the bins
        return lower * self.bin_width, (lower + 1) * self.bin_width, share

    def mean(self, weights: Tensor) -> Tensor:
        """Mean over layers and regions; weights (regions,) are the shares of the sampling steps, summing to 1."""
        return (self.values.mean(0) * weights).sum()

    def frozen(self, weights: Tensor | None = None, mean: float = 0.0) -> Tensor:
        """The bins that run at inference, (layers, regions): the nearest ones. With `weights` (regions,), the entries
        that rounding moved furthest go to their other neighbour for as long as this brings the mean closer to
        `mean`."""
        last = math.floor(HIGHEST / self.bin_width + 1e-6)
        exact = self.values.detach().cpu() / self.bin_width
        bins = exact.round().clamp(0, last)
        if weights is None:
            return bins * self.bin_width
        each = weights.cpu().expand_as(exact) / len(exact)  # what one bin in an entry adds to the mean
        for _ in range(exact.numel()):
            gap = mean / self.bin_width - float((bins * each).sum())
            move = math.copysign(1.0, gap)
            residual = (exact - bins) * move
            allowed = (residual > 1e-6) & (each < 2 * abs(gap)) & (bins + move <= last)
            if not allowed.any():
                break
            chosen = int(torch.where(allowed, residual, -1.0).argmax())
            bins.view(-1)[chosen] += move
        return bins * self.bin_width

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep the ratios inside the bins."""
        self.values.clamp_(0.0, HIGHEST)


def step_shares(steps: int, regions: int) -> Tensor:
    """The share of the sampling steps that each region serves, (regions,)."""
    counts = torch.zeros(regions)
    for index in range(steps):
        counts[region_of(index, steps, regions)] += 1
    return counts / steps
