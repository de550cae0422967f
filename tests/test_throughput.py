"""Throughput: warm full batches alone, and no figure from too few."""

from pathlib import Path

import pytest

import harness
from harness.latency_estimates import throughput


def test_the_first_batch_and_a_short_last_one_stay_out() -> None:
    """A first batch that compiles for a minute: ten images in 2 seconds, whatever it took."""
    found = throughput([60.0, 2.0, 2.0, 2.0, 2.0, 0.1], 53, 10)["throughput_images_s"]
    assert (found.value, found.low, found.high, found.n) == (5.0, 5.0, 5.0, 4)
    assert "but the first" in found.convention


@pytest.mark.parametrize(("images", "batch"), [(3, 1), (39, 10), (10, 10), (9, 10), (1, 1)])
def test_no_figure_from_fewer_than_three_warm_batches(images: int, batch: int) -> None:
    assert throughput([1.0] * -(-images // batch), images, batch) == {}


def test_in_a_sweep(tiny_folder: Path, tmp_path: Path) -> None:
    table = harness.run(
        "random", model=str(tiny_folder), cases=4, batch=1, rounds=2, ratios=[0.3], metrics="paired",
        out=tmp_path / "run",
    )  # fmt: skip
    for record in table.records:
        found = record.estimates["throughput_images_s"]
        assert found.n == 3 and found.low is not None and found.low <= found.value
