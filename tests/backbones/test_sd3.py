"""Stable Diffusion 3 and 3.5."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pipelines
import pytest
import torch
from contract import Contract
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from families import GRID, Family, seeded, traces
from slow_routing import routed
from torch import Tensor, nn

from harness.attach import attached, check
from harness.backbones.following import track_sampler
from harness.backbones.pixart import PixArt
from harness.backbones.sd3 import SD3
from harness.measure import flops
from harness.measure.torch_counter import counting
from harness.spec import Call
from methods.tome import ToMe, ToMeSettings
from tests.measure.hand_formulas_joint import sd3_macs

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


def test_a_real_pipeline_is_routed_and_restored() -> None:
    backbone = SD3(seeded(lambda: make(joint_attention_dim=96)))
    pipeline = pipelines.sd3(backbone.transformer)
    before, dense = traces(backbone.transformer), pipelines.draw(pipeline)
    method, state = routed(backbone, "mlp")

    def run(on: bool) -> Any:
        with track_sampler(backbone, pipeline, guided=True), attached(backbone, method, state) if on else nullcontext():
            return pipelines.draw(pipeline)

    fewer = run(True)
    assert dense.shape == (40, 56, 3) and np.isfinite(dense).all()
    assert not np.array_equal(fewer, dense) and np.array_equal(run(False), dense)
    assert np.array_equal(pipelines.draw(pipeline), dense) and traces(backbone.transformer) == before
    assert "set_timesteps" not in vars(pipeline.scheduler)
    counts = [flops.count(backbone.transformer, lambda on=on: run(on), images=1) for on in (False, True)]
    text, tokens = 32 + pipelines.TEXT_TOKENS, [24] * backbone.layers
    config, scores = backbone.transformer.config, backbone.layers * 35 * backbone.width
    assert counts[0].gmacs == pytest.approx(2e-9 * sd3_macs(config, None, text, (10, 14)))
    assert counts[1].gmacs == pytest.approx(2e-9 * (sd3_macs(config, tokens, text, (10, 14)) + scores))
    assert all(count.calls == 4 and count.unknown == () for count in counts)
    assert counts[1].gmacs_paper < counts[0].gmacs_paper


def test_a_skipped_block_passes_its_text_through() -> None:
    backbone, texts = TestSD3.family.backbone(), []

    def watch(call: Call) -> Tensor:
        assert call.text is not None
        texts.append(call.text)
        return call.run(call.x) if call.layer != 1 else call.x

    with backbone.advise("block", watch):
        TestSD3.family.forward(backbone)
    assert texts[0].shape == (2, TEXT, 32)
    assert not torch.equal(texts[1], texts[0]) and torch.equal(texts[2], texts[1])


def test_a_skipped_attention_adds_nothing_to_the_text() -> None:
    backbone, texts = TestSD3.family.backbone(), []
    with torch.no_grad():  # the text's MLP of layer 0 is off
        backbone.blocks[0].ff_context.net[2].weight.zero_()
        backbone.blocks[0].ff_context.net[2].bias.zero_()

    def watch(call: Call) -> Tensor:
        texts.append(call.text)
        return call.run(call.x)

    with (
        backbone.advise("self_attention", lambda call: torch.zeros_like(call.x), [0]),
        backbone.advise("block", watch),
    ):
        TestSD3.family.forward(backbone)
    assert torch.equal(texts[1], texts[0])


def test_the_text_is_that_of_the_last_run() -> None:
    backbone, texts = TestSD3.family.backbone(), []

    def twice(call: Call) -> Tensor:
        call.run(call.x[:, :5], torch.arange(5).expand(len(call.x), -1))
        return call.run(call.x)

    def watch(call: Call) -> Tensor:
        texts.append(call.text)
        return call.run(call.x)

    with backbone.advise("block", watch, [1]):
        TestSD3.family.forward(backbone)
        with backbone.advise("block", twice, [0]):
            TestSD3.family.forward(backbone)
    assert torch.equal(texts[0], texts[1])


@pytest.mark.parametrize("settings", [{"around": "self_attention"}, {"around": "mlp"}, {"around": "block"}])
def test_tome_around_every_part(settings: dict[str, Any]) -> None:
    backbone, method = TestSD3.family.backbone(), ToMe(ToMeSettings(ratio=0.3, **settings))
    assert not check(method, SD3)
    dense = TestSD3.family.generate(backbone)
    with attached(backbone, method, None):
        assert not torch.equal(TestSD3.family.generate(backbone), dense)


def test_proportional_attention_is_refused_when_planned() -> None:
    method = ToMe(ToMeSettings(ratio=0.3, proportional=True))
    assert check(method, SD3) == "SD3 offers no weighed keys" and not check(method, PixArt)


def test_the_formula_at_real_size() -> None:
    """Six layers of SD3-medium at 1024 x 1024, 77 + 256 text tokens."""
    with torch.device("meta"):
        model = SD3Transformer2DModel(
            sample_size=128, in_channels=16, num_layers=6, num_attention_heads=24, attention_head_dim=64,
            joint_attention_dim=4096, caption_projection_dim=1536, pooled_projection_dim=2048, pos_embed_max_size=192,
        )  # fmt: skip
    with torch.no_grad(), counting() as executed:
        model(**SD3(model).inputs(1, text_tokens=333))
    assert executed.total == sd3_macs(model.config, None, 333, 128)
    linear = sd3_macs(model.config, None, 333, 128, fused_attention=False)
    assert executed.total - linear == 6 * 2 * (4096 + 333) ** 2 * 1536
    with pytest.raises(ValueError, match="2 entries for 6 layers"):
        sd3_macs(model.config, [9, 9], 333, 128)
