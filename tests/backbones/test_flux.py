"""Flux."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pipelines
import pytest
import torch
from contract import Contract
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from families import GRID, Family, seeded, traces
from slow_routing import routed
from torch import Tensor, nn

from harness.attach import attached, check
from harness.backbones.flux import Flux
from harness.backbones.following import track_sampler
from harness.errors import UserError
from harness.measure import flops
from harness.measure.torch_counter import counting
from harness.spec import Call
from harness.tokens import take
from methods.fewer_steps import FewerSteps
from methods.tome import ToMe, ToMeSettings
from tests.measure.hand_formulas_joint import flux_macs

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


@pytest.fixture
def pipeline() -> Any:
    return pipelines.flux(seeded(lambda: make(joint_attention_dim=96)))


def test_a_real_pipeline_is_routed_and_restored(pipeline: Any) -> None:
    backbone, dense = Flux(pipeline.transformer), pipelines.draw(pipeline)
    before = traces(backbone.transformer)
    method, state = routed(backbone, "mlp")
    guided: list[bool | None] = []

    def run(on: bool) -> Any:
        with track_sampler(backbone, pipeline, guided=True), attached(backbone, method, state) if on else nullcontext():
            guided.append(backbone.guided)
            return pipelines.draw(pipeline)

    fewer = run(True)
    assert guided == [False]  # guidance is distilled: no batch holds two halves
    assert dense.shape == (40, 56, 3) and np.isfinite(dense).all()
    assert not np.array_equal(fewer, dense) and np.array_equal(run(False), dense)
    assert np.array_equal(pipelines.draw(pipeline), dense) and traces(backbone.transformer) == before
    assert "set_timesteps" not in vars(pipeline.scheduler)
    counts = [flops.count(backbone.transformer, lambda on=on: run(on), images=1) for on in (False, True)]
    text, config, scores = pipelines.TEXT_TOKENS, backbone.transformer.config, backbone.layers * 35 * backbone.width
    assert counts[0].gmacs == pytest.approx(1e-9 * flux_macs(config, None, text, 35))
    assert counts[1].gmacs == pytest.approx(1e-9 * (flux_macs(config, [24] * 4, text, 35) + scores))
    assert all(count.calls == 4 and count.unknown == () for count in counts)
    assert counts[1].gmacs_paper < counts[0].gmacs_paper


def test_fewer_steps_are_what_the_pipeline_takes_when_asked_for_them(pipeline: Any) -> None:
    backbone, method = Flux(pipeline.transformer), FewerSteps(FewerSteps.Settings(spared=0.5))
    with track_sampler(backbone, pipeline), attached(backbone, method, None):
        made = pipelines.draw(pipeline, steps=4, output_type="latent")
    assert torch.allclose(made, pipelines.draw(pipeline, steps=2, output_type="latent"), atol=1e-5)


def test_a_part_that_is_not_told_its_places_says_so() -> None:
    backbone = TestFlux.family.backbone()

    def half(call: Call) -> Tensor:
        call.run(call.x[:, ::2])
        return call.x

    with pytest.raises(ValueError, match=r"call run\(x, index\)"), backbone.advise("block", half):
        TestFlux.family.forward(backbone)


@pytest.mark.parametrize("layer", [0, 3])
def test_attention_on_a_subset_of_a_subset(layer: int) -> None:
    """Inside a block on half of its tokens, attention on a third of those: the places are those of the grid."""
    places = torch.arange(35).expand(2, -1)
    outer, inner = places[:, ::2], torch.arange(0, 18, 3).expand(2, -1)

    def run_with(block_index: Tensor, attention_index: Tensor) -> Tensor:
        backbone = TestFlux.family.backbone()

        def block(call: Call) -> Tensor:
            call.run(take(call.x, block_index), block_index)
            return call.run(call.x)

        def attention(call: Call) -> Tensor:
            if call.x.shape[1] == block_index.shape[1] and not got_here:
                got_here.append(call.run(take(call.x, attention_index), attention_index))
            return call.run(call.x)

        got_here: list[Tensor] = []
        with backbone.advise("block", block, [layer]), backbone.advise("self_attention", attention, [layer]):
            TestFlux.family.forward(backbone)
        return got_here[0]

    got = [run_with(outer, inner), run_with(take(places[..., None], inner * 2)[..., 0], torch.arange(6).expand(2, -1))]
    assert torch.allclose(*got, atol=1e-5)


def test_tome_is_refused_where_single_blocks_lack_the_part() -> None:
    def reason(**settings: Any) -> str:
        return check(ToMe(ToMeSettings(ratio=0.3, **settings)), Flux)

    assert reason(around="mlp") == "Flux has no separate mlp"
    assert not reason(around="self_attention") and not reason(around="block")
    backbone = TestFlux.family.backbone()
    dense = TestFlux.family.generate(backbone)
    with attached(backbone, ToMe(ToMeSettings(ratio=0.3, around="self_attention")), None):
        assert not torch.equal(TestFlux.family.generate(backbone), dense)
    with pytest.raises(UserError, match="'mlp' part to advise in layers 2, 3"), backbone.advise("mlp", lambda c: c.x):
        pass


def test_images_beside_the_grid_are_refused() -> None:
    backbone = TestFlux.family.backbone()
    with pytest.raises(UserError, match="36 image tokens whose ids span 5 x 7"):
        backbone.grid_of((), {"img_ids": torch.cat([ids(GRID), torch.zeros(1, 3)])})


def test_the_formula_at_real_size() -> None:
    """Two double and two single blocks of Flux-dev at 1024 x 1024, 512 text tokens."""
    with torch.device("meta"):
        model = FluxTransformer2DModel(num_layers=2, num_single_layers=2, guidance_embeds=True)
    with torch.no_grad(), counting() as executed:
        model(**Flux(model).inputs(1, text_tokens=512))
    assert executed.total == flux_macs(model.config, None, 512, 4096)
    linear = flux_macs(model.config, None, 512, 4096, fused_attention=False)
    assert executed.total - linear == 4 * 2 * (4096 + 512) ** 2 * 3072
    with pytest.raises(ValueError, match="2 entries for 4 layers"):
        flux_macs(model.config, [9, 9], 512, 4096)
