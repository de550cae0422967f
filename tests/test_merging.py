"""Our own merging equals the package tomesd's, with the same destinations."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import forward_once
from tomesd.merge import bipartite_soft_matching_random2d

from harness.backbones.pixart import PixArt
from harness.spec import Call, Step
from methods.common.merging import Merging, Partition, Windows, sides


@given(
    height=st.integers(2, 9), width=st.integers(2, 9), stride=st.sampled_from([(2, 2), (1, 4), (3, 3)]),
    share=st.floats(0.05, 0.75), batch=st.integers(1, 3), seed=st.integers(0, 100), fixed=st.booleans(),
)  # fmt: skip
def test_as_tomesd(
    height: int, width: int, stride: tuple[int, int], share: float, batch: int, seed: int, fixed: bool
) -> None:
    windows = Windows(height, width, *stride)
    merged = max(1, int(share * height * width))
    if not windows.count:
        return
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, height * width, 6, generator=draw)
    update = torch.randn(batch, height * width, 6, generator=draw)
    before = draw.get_state()
    merge, unmerge = bipartite_soft_matching_random2d(
        x, width, height, stride[1], stride[0], merged, no_rand=fixed, generator=draw
    )
    draw.set_state(before)
    chosen = torch.randint(windows.size, (1, windows.count), generator=draw)
    pairs = Merging.of(x, *sides(windows, chosen * (not fixed), x.device), merged)
    theirs, ours = merge(x), pairs.merge(x)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours.sort(1).values, theirs.sort(1).values)
    torch.testing.assert_close(pairs.unmerge(ours), unmerge(theirs))
    torch.testing.assert_close(pairs.unmerge(pairs.merge(update)), unmerge(merge(update)))
    torch.testing.assert_close(pairs.unmerge(pairs.merge(update, "sum")), unmerge(merge(update, mode="sum")))


def test_more_than_all_sources_are_never_merged() -> None:
    windows = Windows(4, 4, 2, 2)
    (chosen,) = sides(windows, torch.zeros(1, 4, dtype=torch.int64), torch.device("cpu"))
    x = torch.randn(2, 16, 3, generator=torch.Generator().manual_seed(0))
    assert Merging.of(x, chosen, 15).merge(x).shape == (2, 4, 3)
    assert chosen.order[:4].tolist() == [0, 2, 8, 10]  # each window's first token


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_destinations_of_many_tokens_are_means_in_any_precision(dtype: torch.dtype) -> None:
    windows = Windows(64, 64, 2, 2)
    (between,) = sides(windows, torch.zeros(1, windows.count, dtype=torch.int64), torch.device("cpu"))
    x = torch.ones(1, 4096, 8, dtype=dtype)
    merged = Merging.of(x, between, 2048).merge(x)  # equal ones: all go into the first
    torch.testing.assert_close(merged, torch.ones(1, 2048, 8, dtype=dtype), atol=2e-3, rtol=0.0)


def test_every_step_draws_into_the_place_of_the_one_before(backbone: PixArt) -> None:
    """A graph that is replayed reads where it read when it was captured."""
    partition, seen = Partition(2), list[tuple[int, list[int]]]()

    def advice(call: Call) -> torch.Tensor:
        now = partition.of(call)
        seen.append((now.order.data_ptr(), now.order[: now.count].tolist()))
        return call.run(call.x)

    with partition.on(backbone, [1]), backbone.advise("block", advice, [1]):
        for index in range(3):
            with backbone.at(Step(index, 4, 500.0)):
                forward_once(backbone)
    assert len({place for place, _ in seen}) == 1 and seen[0][1] != seen[1][1] != seen[2][1]


def test_another_grid_of_as_many_tokens_has_windows_of_its_own() -> None:
    """And what inference mode has made is not written into outside of it."""
    partition = Partition(2)
    square, wide = Windows(6, 6, 2, 2), Windows(4, 9, 2, 2)
    with torch.inference_mode():
        partition._keep([0], sides(square, partition.drawn(square, 1), torch.device("cpu")))
    for windows in (square, wide):
        (new,) = sides(windows, partition.drawn(windows, 1), torch.device("cpu"))
        partition._keep([0], [new])
        kept = partition._of[0]
        assert kept.count == windows.count and torch.equal(kept.order, new.order)


@pytest.mark.parametrize("height", [3, 4])
def test_tokens_beyond_the_last_window_are_sources(height: int) -> None:
    windows = Windows(height, 5, 2, 2)
    made = sides(windows, torch.randint(4, (7, windows.count)), torch.device("cpu"))
    for side in made:
        one = side.order[: side.count]
        assert (one // 5 < 2 * (height // 2)).all() and (one % 5 < 4).all() and (one.diff() > 0).all()
        assert sorted(side.order.tolist()) == list(range(height * 5))
        assert len(set((one // 10 * 10 + one % 5 // 2).tolist())) == windows.count
