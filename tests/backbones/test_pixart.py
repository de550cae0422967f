"""PixArt-alpha and PixArt-Sigma."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from contract import Contract
from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel
from families import GRID, Family
from torch import Tensor, nn

from tests.measure.hand_formulas_pixart import pixart_macs

TEXT = 9


def make() -> nn.Module:
    model = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=3,
        cross_attention_dim=32, caption_channels=24, sample_size=16, patch_size=2, use_additional_conditions=False,
    )  # fmt: skip
    for block in model.transformer_blocks:
        nn.init.normal_(block.scale_shift_table)
    return model


def noise(model: Any, batch: int, grid: tuple[int, int]) -> Tensor:
    patch = model.config.patch_size
    return torch.randn(batch, 4, patch * grid[0], patch * grid[1])


def call(model: Any, x: Tensor, timestep: Tensor) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {
        "hidden_states": x,
        "encoder_hidden_states": torch.randn(len(x), TEXT, 24, generator=generator),
        "timestep": timestep,
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


def macs(config: Mapping[str, Any], tokens: Sequence[int] | None) -> int:
    patch = config["patch_size"]
    return pixart_macs(config, tokens, TEXT, (patch * GRID[0], patch * GRID[1]))


class TestPixArt(Contract):
    family = Family(
        name="pixart",
        about="PixArt-alpha and PixArt-Sigma",
        make=make,
        noise=noise,
        call=call,
        macs=macs,
        scheduler=DPMSolverMultistepScheduler,
    )
