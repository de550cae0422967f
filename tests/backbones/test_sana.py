"""Sana: linear attention, and a convolution in the MLP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from contract import Contract
from diffusers import DPMSolverMultistepScheduler, SanaTransformer2DModel
from families import GRID, Family
from torch import Tensor, nn

from harness.errors import UserError
from harness.spec import Call, Step
from harness.tokens import take

TEXT = 9


def make() -> nn.Module:
    model = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=4, attention_head_dim=8, num_layers=3,
        num_cross_attention_heads=2, cross_attention_head_dim=16, cross_attention_dim=32, caption_channels=24,
        sample_size=8, mlp_ratio=2.5,
    )  # fmt: skip
    for block in model.transformer_blocks:
        nn.init.normal_(block.scale_shift_table)
        nn.init.normal_(block.ff.conv_inverted.bias)  # a token that is nothing is not nothing behind the widening
    return model


def noise(model: Any, batch: int, grid: tuple[int, int]) -> Tensor:
    return torch.randn(batch, 4, *grid)


def call(model: Any, x: Tensor, timestep: Tensor) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {
        "hidden_states": x,
        "encoder_hidden_states": torch.randn(len(x), TEXT, 24, generator=generator),
        "timestep": timestep,
    }


def macs(config: Mapping[str, Any], tokens: Sequence[int] | None) -> int:
    width, head, layers, whole = 32, 8, 3, GRID[0] * GRID[1]
    wide = int(2.5 * width)
    total = 0
    for n in tokens or [whole] * layers:
        total += (
            4 * n * width**2 + 2 * n * (head + 1) * width
        )  # linear attention: values and their count, D / heads each
        total += 2 * n * width**2 + 2 * TEXT * width**2 + 2 * n * TEXT * width
        total += n * 3 * wide * width + whole * 9 * 2 * wide  # the convolution runs on the whole grid
    ends = whole * width * (4 + 4) + TEXT * (24 * width + width**2)
    return total + ends + 256 * width + width**2 + 6 * width**2


@contextmanager
def kept_alone(_family: Family, block: Any, keep: Tensor) -> Iterator[None]:
    """Linear attention without the keys of dropped tokens, whose channels are zero for the convolution."""

    def no_key(_module: nn.Module, _args: Any, out: Tensor) -> Tensor:
        return out * keep[..., None]  # the kernel, a ReLU, keeps zero zero

    def no_neighbour(_module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        return (args[0] * keep.unflatten(1, args[0].shape[-2:])[:, None],)

    hooks = [
        block.attn1.to_k.register_forward_hook(no_key), block.ff.conv_depth.register_forward_pre_hook(no_neighbour)
    ]  # fmt: skip
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class TestSana(Contract):
    family = Family(
        name="sana",
        about="Sana",
        make=make,
        noise=noise,
        call=call,
        macs=macs,
        scheduler=lambda: DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        masked=kept_alone,
    )

    def test_the_mlp_alone_on_a_subset_is_the_masked_one(self) -> None:
        backbone = self.family.backbone()
        found: list[Tensor] = []

        def half(call: Call) -> Tensor:
            index = torch.arange(0, call.x.shape[1], 2).expand(len(call.x), -1)
            found[:] = [call.x, index, call.run(take(call.x, index), index)]
            return call.run(call.x)

        with backbone.advise("mlp", half, [1]):
            self.family.forward(backbone)
        x, index, fast = found
        keep = torch.zeros(x.shape[:2], dtype=torch.bool).scatter(1, index, True)
        block = backbone.blocks[1]
        with torch.no_grad(), kept_alone(self.family, block, keep):
            slow = block.ff(x.transpose(1, 2).unflatten(2, GRID)).flatten(2).transpose(1, 2)
        assert (take(slow, index) - fast).abs().max() < 1e-5

    def test_a_subset_without_places_is_refused(self) -> None:
        backbone = self.family.backbone()
        with (
            pytest.raises(UserError, match="has to know where tokens stand"),
            backbone.advise("block", lambda call: call.run(call.x[:, ::2])),
            backbone.at(Step(0, 4, 900.0)),
        ):
            self.family.forward(backbone)
