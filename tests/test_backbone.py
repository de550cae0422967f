import gc

import pytest
import torch
from torch import Tensor

from harness.backbones.following import track_sampler
from harness.backbones.pixart import PixArt
from harness.errors import UserError
from harness.models import Model
from harness.spec import Call, Step
from harness.tokens import scatter, take


def forward(backbone: PixArt, batch: int = 2, size: tuple[int, int] = (16, 16)) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    channels = backbone.transformer.config.in_channels
    x = torch.randn(batch, channels, *size, generator=generator)
    text = torch.randn(batch, 8, backbone.transformer.config.caption_channels, generator=generator)
    with torch.no_grad(), backbone.at(Step(0, 4, 500.0)):
        return backbone.transformer(
            x,
            encoder_hidden_states=text,
            timestep=torch.full((batch,), 500),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
        )[0]


@pytest.mark.parametrize("part", ["block", "self_attention", "cross_attention", "mlp"])
def test_idle_advice_is_dense_bit_for_bit_and_leaves_no_trace(backbone: PixArt, part: str) -> None:
    before, keys = forward(backbone), list(backbone.transformer.state_dict())
    seen: list[Call] = []

    def advice(call: Call) -> Tensor:
        seen.append(call)
        return call.run(call.x)

    with backbone.advise(part, advice):  # type: ignore[arg-type]
        assert torch.equal(forward(backbone), before)
        assert list(backbone.transformer.state_dict()) == keys
    assert [call.layer for call in seen] == [0, 1, 2]
    assert seen[0].x.shape == (2, 256, 32) and (seen[0].grid.height, seen[0].grid.width) == (16, 16)
    assert all("forward" not in vars(module) for module in backbone.transformer.modules())
    assert not backbone.transformer._forward_pre_hooks
    assert torch.equal(forward(backbone), before)


def test_the_model_comes_back_whatever_is_raised(backbone: PixArt) -> None:
    before = forward(backbone)

    def broken(call: Call) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), backbone.advise("mlp", broken):
        forward(backbone)
    assert all("forward" not in vars(module) for module in backbone.transformer.modules())
    assert torch.equal(forward(backbone), before)


def test_a_subset_of_a_subset_knows_its_place_in_the_grid(backbone: PixArt) -> None:
    seen: list[Tensor | None] = []

    def half(call: Call) -> Tensor:  # every second of the tokens that come in
        index = torch.arange(0, call.x.shape[1], 2).expand(len(call.x), -1)
        return scatter(call.x, index, call.run(take(call.x, index), index))

    def watch(call: Call) -> Tensor:
        seen.append(call.index)
        return call.run(call.x)

    with (
        backbone.advise("block", watch, [0]),
        backbone.advise("block", half, [0]),
        backbone.advise("block", half, [0]),
        backbone.advise("block", watch, [0]),
    ):
        forward(backbone)
    outer, inner = seen
    assert outer is None
    assert inner is not None and torch.equal(inner, torch.arange(0, 256, 4).expand(2, -1))


def test_a_call_leaves_nothing_for_garbage_collection(backbone: PixArt) -> None:
    """Which is off while seconds are measured; of Flux, a call would leave the whole output of a block."""

    def found() -> int:
        gc.collect()
        forward(backbone)
        return gc.collect()

    def advice(call: Call) -> Tensor:
        return call.run(call.x)

    gc.disable()
    try:
        dense = found()
        with backbone.advise("block", advice), backbone.advise("block", advice), backbone.advise("mlp", advice):
            assert found() <= dense
    finally:
        gc.enable()


def test_the_first_advice_is_outermost(backbone: PixArt) -> None:
    order: list[str] = []

    def named(name: str) -> object:
        def advice(call: Call) -> Tensor:
            order.append(f"{name} in")
            out = call.run(call.x)
            order.append(f"{name} out")
            return out

        return advice

    with backbone.advise("block", named("a"), [1]), backbone.advise("block", named("b"), [1]):  # type: ignore[arg-type]
        forward(backbone)
    assert order == ["a in", "b in", "b out", "a out"]


def test_a_block_runs_on_a_subset(backbone: PixArt) -> None:
    shapes: list[tuple[int, ...]] = []

    def half(call: Call) -> Tensor:
        part = call.run(call.x[:, ::2])
        shapes.append(tuple(part.shape))
        out = call.x.clone()
        out[:, ::2] = part
        return out

    with backbone.advise("block", half, [0]):
        forward(backbone, batch=3, size=(5, 7))
    assert shapes == [(3, 18, 32)]


def test_a_wrong_shape_is_named(backbone: PixArt) -> None:
    with (
        pytest.raises(ValueError, match=r"block of layer 0 .*\(2, 128, 32\).*\(2, 256, 32\)"),
        backbone.advise("block", lambda call: call.run(call.x)[:, ::2]),
    ):
        forward(backbone)


def test_foreign_patches_are_not_overwritten(backbone: PixArt) -> None:
    block = backbone.blocks[0]
    original = block.forward
    block.forward = lambda *args, **kwargs: original(*args, **kwargs)
    with pytest.raises(UserError, match="patched by something else"), backbone.advise("block", lambda call: call.x):
        pass
    del block.forward


def test_steps_are_counted_per_image(model: Model) -> None:
    backbone, seen = model.backbone, []
    resets: list[int] = []

    def watch(call: Call) -> Tensor:
        if call.layer == 0:
            seen.append((call.step.index, call.step.count))
        return call.run(call.x)

    with (
        track_sampler(backbone, model.pipeline),
        backbone.advise("block", watch),
        backbone.on_begin(lambda: resets.append(len(seen))),
    ):
        for _ in range(2):
            model.pipeline(
                "a large red plain circle top left", num_inference_steps=3, output_type="latent", **model.call
            )
    assert seen == [(0, 3), (1, 3), (2, 3)] * 2
    assert resets == [0, 3]
    assert "set_timesteps" not in vars(model.pipeline.scheduler)
