"""Stable Diffusion 3 and 3.5."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from contract import GRID, Contract, Family
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch import Tensor, nn

from harness.measure.joint import sd3_macs

TEXT = 9


def make(**changes: Any) -> nn.Module:
    """The last block has no text of its own behind it, and block 1 a second attention."""
    tiny = {
        "sample_size": 16, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 3,
        "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 24, "caption_projection_dim": 32,
        "pooled_projection_dim": 20, "pos_embed_max_size": 8, "dual_attention_layers": (1,), "qk_norm": "rms_norm",
    }  # fmt: skip
    model = SD3Transformer2DModel(**(tiny | changes))
    for block in model.transformer_blocks:
        nn.init.normal_(block.norm1.linear.bias, std=0.5)
        nn.init.normal_(block.norm1_context.linear.bias, std=0.5)
    return model


def noise(model: Any, batch: int, grid: tuple[int, int]) -> Tensor:
    patch = model.config.patch_size
    return torch.randn(batch, model.config.in_channels, patch * grid[0], patch * grid[1])


def call(model: Any, x: Tensor, timestep: Tensor) -> dict[str, Any]:
    generator, config = torch.Generator().manual_seed(1), model.config
    return {
        "hidden_states": x,
        "encoder_hidden_states": torch.randn(len(x), TEXT, config.joint_attention_dim, generator=generator),
        "pooled_projections": torch.randn(len(x), config.pooled_projection_dim, generator=generator),
        "timestep": timestep,
    }


def macs(config: Mapping[str, Any], tokens: Sequence[int] | None) -> int:
    patch = config["patch_size"]
    return sd3_macs(config, tokens, TEXT, (patch * GRID[0], patch * GRID[1]))


class TestSD3(Contract):
    family = Family(
        name="sd3",
        about="Stable Diffusion 3 and 3.5 (joint blocks)",
        make=make,
        noise=noise,
        call=call,
        macs=macs,
        scheduler=FlowMatchEulerDiscreteScheduler,
        image_at=1,
        keys=lambda keep: torch.cat([keep, keep.new_ones(len(keep), TEXT)], 1),  # image first
    )
