"""Images of one case made at different times: what a device's rounding may do, and what a method may not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness import cost
from harness.errors import MethodFailure

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
IMAGE = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
DENSE = [IMAGE, IMAGE.clone()]


def rounded(by: float, seed: int) -> Tensor:
    return IMAGE + by * torch.rand(IMAGE.shape, generator=torch.Generator().manual_seed(seed))


def test_sums_in_any_order_are_no_state_on_a_gpu() -> None:
    """scatter_reduce adds up as it comes, and differs among images that nothing was made before, too."""
    images, fresh = [rounded(1e-3, seed) for seed in (1, 2)], [rounded(1e-3, seed) for seed in (3, 4)]
    cost._check(images + fresh, DENSE, fresh, CUDA)
    with pytest.raises(MethodFailure, match="carries state"):  # which no CPU does
        cost._check(images + fresh, DENSE, fresh, CPU)


@pytest.mark.parametrize(
    ("images", "fresh"),
    [
        ([rounded(1e-3, 1)], DENSE),  # alike at first, and not behind other images
        ([rounded(0.5, 1)], [rounded(0.5, 2), rounded(0.5, 3)]),  # random numbers without a seed
    ],
)
def test_state_and_chance_are_found_on_a_gpu(images: list[Tensor], fresh: list[Tensor]) -> None:
    with pytest.raises(MethodFailure, match="carries state"):
        cost._check(images + fresh, DENSE, fresh, CUDA)
    cost._check(images + fresh, [IMAGE, IMAGE + 1e-3], fresh, CUDA)  # where dense itself never gives the same bits
