"""DiT, class-conditional."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from contract import Contract
from diffusers import DiTTransformer2DModel, DPMSolverMultistepScheduler
from families import Family
from torch import Tensor, nn

GRID = (6, 6)  # the model puts no others together


def make() -> nn.Module:
    model = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=3, sample_size=12,
        num_embeds_ada_norm=1000,
    )  # fmt: skip
    for block in model.transformer_blocks:
        nn.init.normal_(block.norm1.linear.bias)
    return model


def noise(model: Any, batch: int, grid: tuple[int, int]) -> Tensor:
    return torch.randn(batch, 4, 2 * grid[0], 2 * grid[1])


def call(model: Any, x: Tensor, timestep: Tensor) -> dict[str, Any]:
    return {"hidden_states": x, "timestep": timestep, "class_labels": 137 * torch.arange(len(x)) % 1001}


def macs(config: Mapping[str, Any], tokens: Sequence[int] | None) -> int:
    width, layers, whole = 32, 3, GRID[0] * GRID[1]
    kept = tokens or [whole] * layers
    embedded = 256 * width + width**2  # of the timestep; a class is looked up
    blocks = sum(n * 12 * width**2 + 2 * n**2 * width + embedded + 6 * width**2 for n in kept)
    ends = whole * width * 4 * (4 + 8) + embedded + 2 * width**2
    return blocks + ends


class TestDiT(Contract):
    family = Family(
        name="dit",
        about="DiT, class-conditional",
        make=make,
        noise=noise,
        call=call,
        macs=macs,
        grid=GRID,
        scheduler=DPMSolverMultistepScheduler,
    )

    def test_no_method_is_told_of_halves(self) -> None:
        """DiTPipeline has them the other way round."""
        from types import SimpleNamespace

        from harness.backbones.following import track_sampler

        backbone = self.family.backbone()
        for told in (True, None, False):
            with track_sampler(backbone, SimpleNamespace(scheduler=self.family.scheduler()), guided=told):
                assert backbone.guided is False

    @pytest.mark.parametrize("name", ["tgate"])
    def test_what_needs_cross_attention_is_refused(self, name: str) -> None:
        from harness.attach import check
        from harness.backbones.dit import DiT
        from harness.compose import method_class

        assert check(method_class(name), DiT) == "DiT has no separate cross_attention"
