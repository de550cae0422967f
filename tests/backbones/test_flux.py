"""Flux."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from contract import GRID, Contract, Family
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from torch import Tensor, nn

from harness.measure.joint import flux_macs

TEXT = 9


def make(**changes: Any) -> nn.Module:
    tiny = {
        "in_channels": 16, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
        "joint_attention_dim": 24, "pooled_projection_dim": 20, "guidance_embeds": True, "axes_dims_rope": (4, 6, 6),
    }  # fmt: skip
    model = FluxTransformer2DModel(**(tiny | changes))
    for block in model.transformer_blocks:
        nn.init.normal_(block.norm1.linear.bias, std=0.5)
        nn.init.normal_(block.norm1_context.linear.bias, std=0.5)
    for block in model.single_transformer_blocks:
        nn.init.normal_(block.norm.linear.bias, std=0.5)
    return model


def noise(model: Any, batch: int, grid: tuple[int, int]) -> Tensor:
    return torch.randn(batch, grid[0] * grid[1], model.config.in_channels)


def ids(grid: tuple[int, int]) -> Tensor:
    """(N, 3): 0, row, column."""
    return torch.cartesian_prod(torch.zeros(1), torch.arange(float(grid[0])), torch.arange(float(grid[1])))


def call(model: Any, x: Tensor, timestep: Tensor) -> dict[str, Any]:
    generator, config = torch.Generator().manual_seed(1), model.config
    return {
        "hidden_states": x,
        "encoder_hidden_states": torch.randn(len(x), TEXT, config.joint_attention_dim, generator=generator),
        "pooled_projections": torch.randn(len(x), config.pooled_projection_dim, generator=generator),
        "timestep": timestep / 1000,
        "guidance": torch.full((len(x),), 3.5),
        "img_ids": ids(GRID),
        "txt_ids": torch.zeros(TEXT, 3),
    }


def macs(config: Mapping[str, Any], tokens: Sequence[int] | None) -> int:
    return flux_macs(config, tokens, TEXT, GRID[0] * GRID[1])


class TestFlux(Contract):
    family = Family(
        name="flux",
        about="Flux (double blocks, then single ones)",
        make=make,
        noise=noise,
        call=call,
        macs=macs,
        scheduler=lambda: FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        timesteps=lambda steps: {"sigmas": np.linspace(1.0, 1 / steps, steps), "mu": 0.9},
        guided=False,
        image_at=1,
        keys=lambda keep: torch.cat([keep.new_ones(len(keep), TEXT), keep], 1),  # text first
    )
