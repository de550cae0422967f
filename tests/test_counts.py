"""Kept tokens by layer, as they are and in multiples that suit a device."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.tokens import kept_count
from methods.common.counts import Counts

RATIOS = st.lists(st.floats(0.0, 0.9), min_size=1, max_size=28)


@given(RATIOS, st.integers(1, 300))
def test_as_the_ratio_says(ratios: list[float], tokens: int) -> None:
    counts = Counts(ratios)
    assert [counts.of(i, tokens) for i in range(len(ratios))] == [kept_count(ratio, tokens) for ratio in ratios]


@given(RATIOS, st.sampled_from([256, 1000, 1024, 4096]), st.sampled_from([16, 64]))
def test_multiples_keep_the_mean(ratios: list[float], tokens: int, multiple: int) -> None:
    counts = Counts(ratios, multiple)
    found = [counts.of(layer, tokens) for layer in range(len(ratios))]
    for count, ratio in zip(found, ratios, strict=True):
        assert count == tokens if not ratio else count % multiple == 0 or count == tokens
        assert min(multiple, tokens) <= count <= tokens
    clear = [ratio for ratio in ratios if ratio and 2 * multiple <= (1 - ratio) * tokens <= tokens - 2 * multiple]
    if len(clear) == sum(map(bool, ratios)):  # nothing is bounded by no tokens or all of them
        exact = sum((1 - ratio) * tokens for ratio in ratios)
        assert abs(sum(found) - exact) <= multiple / 2 + 1e-6


def test_by_hand() -> None:
    # 0.7 * 256 = 179.2: 192 (12.8 too many), then 166.4 -> 192, then 153.6 -> 128, ...
    counts = Counts([0.3] * 5, 64)
    assert [counts.of(layer, 256) for layer in range(5)] == [192, 192, 128, 192, 192]
    assert sum(counts.of(layer, 256) for layer in range(5)) == pytest.approx(5 * 179.2, abs=32)
