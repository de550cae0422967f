"""Masks to inpaint: areas, places, squares around them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.models.inpainting import masks
from harness.models.inpainting.regions import square


@settings(max_examples=40, deadline=None)
@given(
    area=st.floats(0.01, 0.6), row=st.floats(0, 64), column=st.floats(0, 64), seed=st.integers(0, 1000),
    kind=st.sampled_from([masks.box, masks.brush]),
)  # fmt: skip
def test_areas_are_met(area: float, row: float, column: float, seed: int, kind: object) -> None:
    made = [kind(64, area, (row, column), np.random.default_rng(seed)) for _ in range(2)]  # type: ignore[operator]
    assert torch.equal(made[0], made[1])  # from the seed alone
    tolerance = 64 if kind is masks.box else 1  # whole rows of a box
    assert abs(int(made[0].sum()) - area * 64 * 64) <= tolerance


def test_an_object_grows_and_shrinks() -> None:
    shape = torch.zeros(64, 64, dtype=torch.bool)
    shape[20:30, 20:30] = True
    small, large = masks.around(shape, 50 / 4096), masks.around(shape, 400 / 4096)
    assert small.sum() == 50 and large.sum() == 400
    assert (small & ~shape).sum() == 0 and (shape & ~large).sum() == 0


@settings(max_examples=60, deadline=None)
@given(
    top=st.integers(0, 60), left=st.integers(0, 60), height=st.integers(1, 64), width=st.integers(1, 64),
    margin=st.sampled_from([0.0, 0.25, 1.0]), multiple=st.sampled_from([1, 4, 16]),
)  # fmt: skip
def test_the_square_holds_the_mask_and_lies_in_the_image(
    top: int, left: int, height: int, width: int, margin: float, multiple: int
) -> None:
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    where = square(mask, margin, multiple)
    y, x, side = where.top, where.left, where.side
    assert where.of(mask).sum() == mask.sum()
    assert min(y, x) >= 0 and max(y, x) + side <= 64 and not any(n % multiple for n in (y, x, side))


def test_an_empty_mask_has_no_square() -> None:
    with pytest.raises(ValueError, match="empty mask"):
        square(torch.zeros(8, 8, dtype=torch.bool), 0.1, 4)
