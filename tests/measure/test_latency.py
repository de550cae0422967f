"""Order, bookkeeping and restoration; no test depends on the machine's speed."""

from __future__ import annotations

import gc
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from harness.latency_estimates import timed
from harness.measure.latency import Blocks, PartTimer, interleave, synchronize, throughput

CPU = torch.device("cpu")


def test_interleaving_alternates_and_warms_up() -> None:
    order: list[str] = []
    collecting: list[bool] = []

    def run(name: str) -> None:
        order.append(name)
        collecting.append(gc.isenabled())

    seconds = interleave([lambda: run("a"), lambda: run("b")], device=CPU, warmup=1, repeats=3)
    assert "".join(order) == "ab" + "ab" + "ba" + "ba"
    assert [len(row) for row in seconds] == [3, 3]
    assert all(value >= 0 for row in seconds for value in row)
    assert not any(collecting)  # neither while warming up: a collection empties caches
    assert gc.isenabled()


def test_blocks_go_on_where_the_last_one_ended() -> None:
    order: list[str] = []
    clock = Blocks([lambda: order.append("a"), lambda: order.append("b")], rounds=5, size=2, device=CPU)
    assert clock.block() == 2 and "".join(order) == "ab" + "ab" + "ba"
    order.append("|")
    assert clock.block() == 2
    order.append("|")
    clock.rest()
    # behind other work, the run that goes first is run once untimed
    assert "".join(order) == "ab" + "ab" + "ba" + "|" + "b" + "ba" + "ab" + "|" + "b" + "ba"
    assert [len(row) for row in clock.seconds] == [5, 5] and clock.block() == 0


@pytest.mark.parametrize("size", [1, 2, 4])
def test_no_run_has_the_better_places(size: int) -> None:
    """Over 8 rounds in blocks, each run goes first as often as the other, at every place of a block."""
    firsts: list[int] = []
    runs = [lambda: firsts.append(0), lambda: firsts.append(1)]
    for start in range(0, 8, size):
        interleave(runs, device=CPU, warmup=0, repeats=size, first=start)
        del firsts[-2 * size - 1]  # the one that is not timed
    opening = [firsts[2 * number] for number in range(8)]
    for place in range(size):
        assert sum(opening[place::size]) == 4 // size


def test_garbage_collection_comes_back_when_a_run_raises() -> None:
    def broken() -> None:
        raise MemoryError("too big")

    with pytest.raises(MemoryError):
        interleave([broken], device=CPU, warmup=0, repeats=1)
    assert gc.isenabled()


def test_every_value_belongs_to_its_run() -> None:
    fast, slow = interleave([lambda: None, lambda: time.sleep(0.01)], device=CPU, warmup=0, repeats=3)
    assert max(fast) < 0.01 <= min(slow)


class Pipeline:
    def __init__(self) -> None:
        self.denoiser = nn.Linear(4, 4)
        self.vae = Decoder()

    def __call__(self) -> Any:
        x = torch.randn(1, 4)
        for _ in range(3):
            x = self.denoiser(x)
        return self.vae.decode(x, twice=True)


class Decoder(nn.Module):
    def decode(self, x: torch.Tensor, twice: bool) -> torch.Tensor:
        time.sleep(0.005)
        return self.decode(x, twice=False) if twice else x


def test_parts_are_told_apart_and_put_back() -> None:
    pipeline = Pipeline()
    with PartTimer({"denoiser": pipeline.denoiser, "vae": (pipeline.vae, "decode")}, CPU) as timer:
        pipeline()
    assert timer.calls == {"denoiser": 3, "vae": 1}
    assert 0.01 <= timer.seconds["vae"] < 1  # the inner call is part of the outer one
    assert timer.seconds["denoiser"] > 0
    assert "forward" not in vars(pipeline.denoiser) and "decode" not in vars(pipeline.vae)


def test_parts_are_put_back_when_one_raises_or_is_none() -> None:
    pipeline = Pipeline()
    with pytest.raises(RuntimeError), PartTimer({"denoiser": pipeline.denoiser}, CPU) as timer:
        pipeline.denoiser(torch.randn(1, 5))
    assert timer.calls == {"denoiser": 1}
    assert "forward" not in vars(pipeline.denoiser)
    with (
        pytest.raises(AttributeError),
        PartTimer({"denoiser": pipeline.denoiser, "vae": (pipeline.vae, "encode")}, CPU),
    ):
        pass
    assert "forward" not in vars(pipeline.denoiser)


def test_throughput_is_images_per_second() -> None:
    seen: list[int] = []

    def batch(size: int) -> None:
        seen.append(size)
        time.sleep(0.01)

    rates = throughput(batch, (1, 4), CPU, warmup=1, repeats=2)
    assert seen == [1] * 3 + [4] * 3
    assert 0 < rates[1] <= 100 and rates[1] < rates[4] <= 400


def test_the_cpu_needs_no_waiting() -> None:
    synchronize(CPU)


def test_seconds_have_the_interval_of_their_blocks() -> None:
    """What stays for as long as a block does makes single rounds look surer than they are."""
    rng = np.random.default_rng(0)
    own = np.repeat(rng.normal(1, 0.1, 6), 8) + rng.normal(0, 0.001, 48)
    found = timed(own.tolist(), np.ones(48).tolist(), "a step")["latency_s"]
    blocks = np.median(own.reshape(6, 8), axis=1)
    assert found.value == np.median(own) and (found.low, found.high) == (blocks.min(), blocks.max())
    assert "over 6 blocks of 8 pairs" in found.convention
