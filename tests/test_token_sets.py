"""Keep sets that no image chooses: strided, border-aware, random."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from test_methods import draw

from harness.attach import attached
from harness.models import Model
from harness.spec import Call
from harness.tokens import top_k
from methods.random_drop import RandomDrop
from methods.static import Static, StaticSettings, border, strided


def kept(layer: int, side: int, count: int) -> list[int]:
    found: list[int] = top_k(strided(layer, side, side).flatten()[None], count)[0].tolist()
    return found


@given(st.integers(8, 16), st.sampled_from([0.1, 0.2, 0.3, 0.5]))
def test_strided_sets_are_spread_over_the_grid(side: int, ratio: float) -> None:
    """Every quarter of the grid keeps about its share."""
    count = round((1 - ratio) * side * side)
    keep = torch.zeros(side * side).index_fill(0, torch.tensor(kept(0, side, count)), 1.0).view(side, side)
    half = side // 2
    for part in (keep[:half, :half], keep[:half, -half:], keep[-half:, :half], keep[-half:, -half:]):
        assert abs(float(part.mean()) - (1 - ratio)) < 0.2


@given(st.integers(3, 20), st.integers(3, 20), st.integers(4, 28))
def test_strided_sets_take_turns_over_the_layers(height: int, width: int, layers: int) -> None:
    share = torch.stack([strided(layer, height, width) > 0.25 for layer in range(layers)]).float().mean(0)
    assert float(share.min()) >= 0.75 - 2 / layers and float(share.max()) <= 0.75 + 2 / layers


def test_border_sets_lose_the_edge_first() -> None:
    importance = border(0, 5, 5).flatten()
    inner = [6, 7, 8, 11, 12, 13, 16, 17, 18]
    assert sorted(top_k(importance[None], 9)[0].tolist()) == inner
    assert importance.argmax() == 12
    assert not torch.equal(border(0, 5, 5), border(1, 5, 5))


def test_sets_without_calibration_need_no_adapter(model: Model) -> None:
    for sets in ("strided", "border"):
        method = Static(StaticSettings(ratio=0.5, sets=sets))  # type: ignore[arg-type]
        assert not method.needs_state
        with attached(model.backbone, method, None):
            assert torch.isfinite(draw(model)).all()
    assert Static().needs_state


def test_random_sets_change_by_layer_and_step_and_return_with_the_image(model: Model) -> None:
    seen: list[list[int]] = []

    def watch(call: Call) -> torch.Tensor:
        assert call.index is not None
        seen.append(call.index[0].tolist())
        return call.run(call.x)

    with (
        attached(model.backbone, RandomDrop(RandomDrop.Settings(ratio=0.5)), None),
        model.backbone.advise("block", watch),
    ):
        draw(model)
        first = list(seen)
        draw(model)
        again = seen[18:]
        draw(model, seed=5)
    assert len({tuple(index) for index in first}) == len(first) == 18
    assert again == first and not any(one == other for one, other in zip(seen[36:], first, strict=True))
    assert all(len(index) == 128 for index in seen)
