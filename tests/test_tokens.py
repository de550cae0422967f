import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness import tokens


@pytest.mark.parametrize(
    ("ratio", "count", "rounding", "kept"),
    [
        (0.0, 256, "ceil", 256),
        (0.2, 1024, "floor", 819),  # the DiffCR paper's MoD row
        (0.2, 1024, "ceil", 820),
        (0.9, 10, "ceil", 1),  # (1 - 0.9) * 10 is 0.99999... in floating point
        (0.7, 10, "ceil", 3),
        (1.0, 256, "floor", 1),  # never nothing
    ],
)
def test_kept_count(ratio: float, count: int, rounding: str, kept: int) -> None:
    assert tokens.kept_count(ratio, count, rounding) == kept


@pytest.mark.parametrize("ratio", [-0.1, 1.1])
def test_kept_count_refuses(ratio: float) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        tokens.kept_count(ratio, 10)


@given(st.integers(1, 3), st.integers(1, 40), st.data())
def test_top_k_keeps_the_highest(batch: int, count: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, count))
    values = data.draw(st.lists(st.integers(0, 5), min_size=batch * count, max_size=batch * count))
    scores = torch.tensor(values, dtype=torch.float32).view(batch, count)
    index = tokens.top_k(scores, k)
    assert index.shape == (batch, k)
    assert all(len(set(row)) == k for row in index.tolist())
    dropped = torch.ones(batch, count, dtype=torch.bool).scatter(1, index, False)
    for row in range(batch):
        if dropped[row].any():
            assert scores[row][index[row]].min() >= scores[row][dropped[row]].max()


@given(st.integers(1, 3), st.integers(1, 20), st.data())
def test_scatter_puts_back_what_take_took(batch: int, count: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, count))
    x = torch.randn(batch, count, 5, generator=torch.Generator().manual_seed(count))
    index = tokens.top_k(x[..., 0], k)
    assert torch.equal(tokens.scatter(x, index, tokens.take(x, index)), x)
    moved = tokens.scatter(x, index, torch.zeros(batch, k, 5))
    assert (moved == 0).all(-1).sum() == batch * k


def test_mix_passes_the_gradient_to_the_share() -> None:
    share = torch.tensor(0.2, requires_grad=True)
    out = tokens.mix(torch.tensor([1.0]), torch.tensor([3.0]), share)
    out.backward()
    assert out.item() == pytest.approx(1.4)
    assert share.grad is not None and share.grad.item() == pytest.approx(2.0)
