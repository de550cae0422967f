"""The sensitivity that routers are read from."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from support import forward_once
from torch import Tensor, nn

from harness.backbones.base import Backbone
from harness.models import Model
from harness.spec import Grid, Step
from methods.common.sensitivity import read_sensitivity, sensitivity


class _Layer(nn.Module):
    """x + x W, token by token."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states + hidden_states @ self.weight


class _Linear(nn.Module):
    """Two linear layers and a linear reading of their result."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        first, second = (0.5 * torch.randn(3, 3, generator=generator) for _ in range(2))
        self.blocks = nn.ModuleList([_Layer(first), _Layer(second)])
        self.head = nn.Parameter(torch.randn(3, 2, generator=generator), requires_grad=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return hidden_states @ self.head


class _Toy(Backbone):
    parts = frozenset({"block"})

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return self.transformer.blocks  # type: ignore[return-value]

    @property
    def width(self) -> int:
        return 3

    def module(self, layer: int, part: Any) -> nn.Module:
        return self.blocks[layer]

    def grid_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Grid:
        return Grid(1, args[0].shape[1])

    def linear_names(self) -> list[str]:
        return []


def _known(toy: _Linear, x: Tensor) -> list[Tensor]:
    """s = |J u|^2, the squared length of what a token's update does to the prediction, per layer (B, N)."""
    first, second = (block.weight for block in toy.blocks)
    updates = [x @ first, (x + x @ first) @ second]
    after = [torch.eye(3) + second, torch.eye(3)]  # what becomes of an update on its way to the head
    return [(u @ m @ toy.head).square().sum(-1) for u, m in zip(updates, after, strict=True)]


def test_sensitivity_of_two_linear_layers_is_known() -> None:
    toy = _Linear()
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    middle = toy.blocks[0](x)
    last = toy.blocks[1](middle)
    blocks = {0: (x, middle), 1: (middle, last)}
    draws = 4000
    found = sensitivity(last @ toy.head, blocks, draws, torch.Generator().manual_seed(0))
    for layer, expected in enumerate(_known(toy, x.detach())):
        # (r . Ju)^2 is chi-squared with one degree of freedom, times s: a relative standard error of sqrt(2 / draws)
        assert torch.allclose(found[layer], expected, rtol=5 * math.sqrt(2 / draws))


def test_routers_read_the_logarithm_of_the_sensitivity() -> None:
    """In features in which log s is linear the reading is exact: tokens are t * (1, 0, 0), so s grows as t^2."""
    toy = _Linear()
    backbone = _Toy(toy)
    direction = torch.tensor([1.0, 0.0, 0.0])
    scale = torch.tensor([[0.5, 1.0, 1.5, 2.0], [0.6, 0.9, 1.1, 1.4]])
    x = scale[..., None] * direction

    def watch(each: Any = None, **_: Any) -> None:
        for step in range(2):
            with backbone.at(Step(step, 2, 0.0)):
                each(toy(x), None)

    with torch.no_grad():
        ridge = read_sensitivity(backbone, watch, draws=3000)
    weights = ridge.solve()
    assert ridge.tokens == [16, 16]
    log_s = 2 * scale.log()
    centred = log_s - log_s.mean(1, keepdim=True)
    slope = float((centred * scale).sum() / (scale * scale).sum())  # least squares through the origin
    assert float(weights[0, 0]) == pytest.approx(slope, rel=0.05)
    reading = (x @ weights[0]).flatten()
    assert float(ridge.spread(weights)[0]) == pytest.approx(float(reading.square().mean().sqrt()), rel=1e-4)


def test_the_model_is_left_without_gradients(model: Model) -> None:
    backbone = model.backbone
    backbone.transformer.requires_grad_(False)

    def watch(each: Any = None, **_: Any) -> None:
        with backbone.at(Step(0, 4, 900.0)):
            each(forward_once(backbone), None)

    with torch.no_grad():
        weights = read_sensitivity(backbone, watch).solve()
    assert weights.shape == (3, 32) and weights.isfinite().all() and not weights.requires_grad
    assert all(p.grad is None for p in backbone.transformer.parameters())
