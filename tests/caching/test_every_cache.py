"""What holds for every cache."""

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import ALL, IDENTITY, LAYERS, STEPS, clean, draw, gmacs, images, name_of, state_of, watched
from diffusers import PyramidAttentionBroadcastConfig, apply_pyramid_attention_broadcast
from torch import Tensor

from harness.attach import attached
from harness.backbones.following import track_sampler
from harness.errors import UserError
from harness.measure import flops
from harness.method import Method
from harness.models import Model, load
from harness.spec import Call


@pytest.mark.parametrize("method", IDENTITY, ids=name_of)
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_identity_is_dense(model: Model, method: Method, guidance: float) -> None:
    assert torch.equal(draw(model, method, guidance=guidance), draw(model, guidance=guidance))


@pytest.mark.parametrize("method", ALL, ids=name_of)
def test_no_trace_is_left_and_no_state_leaks(model: Model, method: Method) -> None:
    dense = draw(model)
    random = torch.get_rng_state()
    with track_sampler(model.backbone, model.pipeline):
        with attached(model.backbone, method, state_of(method)):
            first = images(model)
            images(model, seed=1, steps=6, batch=2)
            assert torch.equal(images(model), first)
        assert clean(model)
    assert not torch.equal(first, dense)
    assert torch.equal(draw(model), dense)
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("method", ALL, ids=name_of)
def test_what_an_image_has_left_goes_without_garbage_collection(model: Model, method: Method) -> None:
    """It is off while seconds are measured, and a GPU would fill up."""

    def tensors() -> int:
        return sum(isinstance(one, Tensor) for one in gc.get_objects())

    with track_sampler(model.backbone, model.pipeline), attached(model.backbone, method, state_of(method)):
        images(model)
        gc.collect()
        gc.disable()
        try:
            images(model)
            once = tensors()
            images(model)
            assert tensors() == once
            model.backbone.forget()
            assert tensors() < once  # nothing stays for the next image either
        finally:
            gc.enable()


@pytest.mark.parametrize("method", ALL, ids=name_of)
def test_removal_in_the_middle_of_an_image(model: Model, method: Method) -> None:
    dense = draw(model)

    def fail(_module: Any, _args: Any) -> None:
        if model.backbone.step.index == 3:
            raise ZeroDivisionError

    handle = model.backbone.blocks[0].register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError):
        draw(model, method)
    handle.remove()
    assert clean(model)
    assert torch.equal(draw(model), dense)


@pytest.mark.parametrize("method", ALL, ids=name_of)
def test_other_advice_stays_and_works(model: Model, method: Method) -> None:
    alone = draw(model, method)
    seen: list[int] = []

    def idle(call: Call) -> Tensor:
        seen.append(call.layer)
        return call.run(call.x)

    backbone = model.backbone
    with (
        track_sampler(backbone, model.pipeline),
        backbone.advise("block", idle),
        backbone.advise("self_attention", idle),
    ):
        with attached(backbone, method, state_of(method)):
            assert torch.equal(images(model), alone)
            assert seen
        seen.clear()
        dense = images(model)
        assert len(seen) == 2 * LAYERS * STEPS
    assert clean(model) and torch.equal(draw(model), dense)


@pytest.mark.parametrize("method", ALL, ids=name_of)
def test_advice_that_goes_on_and_off_inside(model: Model, method: Method) -> None:
    """As heat maps do: their advice is put on before the first image and taken off while hooks are on."""
    backbone = model.backbone
    alone = draw(model, method)
    with track_sampler(backbone, model.pipeline), attached(backbone, method, state_of(method)):
        for part in ("block", "self_attention"):
            with backbone.advise(part, lambda call: call.run(call.x)):  # type: ignore[arg-type]
                pass
        with backbone.advise("block", lambda call: call.run(call.x)):
            assert torch.equal(images(model), alone)
        assert torch.equal(images(model), alone)
    assert clean(model)


@pytest.mark.parametrize("method", ALL, ids=name_of)
def test_one_step_is_refused(model: Model, method: Method) -> None:
    with pytest.raises(UserError, match=rf"{method.name} needs at least two sampling steps"):
        draw(model, method, steps=1)
    assert clean(model)


@pytest.mark.parametrize("method", [one for one in ALL if one.attach_order], ids=name_of)
def test_somebody_elses_hooks_are_refused_and_kept(model: Model, method: Method) -> None:
    transformer = model.backbone.transformer
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
    )
    apply_pyramid_attention_broadcast(transformer, config)
    attention = model.backbone.blocks[0].attn1
    hook, forward = attention._diffusers_hook, attention.forward
    with (
        pytest.raises(UserError, match="transformer_blocks.0.attn1 carries a diffusers hook already"),
        attached(model.backbone, method, state_of(method)),
    ):
        pass
    assert attention._diffusers_hook is hook and attention.forward is forward


@pytest.mark.parametrize("method", ALL, ids=name_of)
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_batches_of_any_size_with_and_without_guidance(model: Model, method: Method, guidance: float) -> None:
    with track_sampler(model.backbone, model.pipeline), attached(model.backbone, method, state_of(method)):
        for batch in (2, 3):
            out = images(model, batch=batch, guidance=guidance)
            assert len(out) == batch and torch.isfinite(out).all()
    known = draw(model, method, guided=guidance > 1, guidance=guidance, batch=3)
    assert torch.equal(known, out)


@pytest.mark.parametrize("method", ALL, ids=name_of)
def test_flops_fall(model: Model, method: Method) -> None:
    dense, fewer = gmacs(model, IDENTITY[ALL.index(method)]), gmacs(model, method)
    assert len(dense) == len(fewer) == STEPS and len(set(dense)) == 1
    assert sum(fewer) < 0.9 * sum(dense) and fewer[0] == dense[0]
    with track_sampler(model.backbone, model.pipeline), attached(model.backbone, method, state_of(method)):
        outside = flops.count(model.backbone.transformer, lambda: images(model), images=1)
    assert outside.per_call == fewer


@pytest.mark.parametrize("method", ALL, ids=name_of)
def test_lazy_diffusion(lazy_folder: Path, method: Method) -> None:
    model = load(str(lazy_folder))
    noise = torch.randn(2, 6, 16, 16, generator=torch.Generator().manual_seed(0))
    given = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(2, 64, 64, dtype=torch.bool)
    mask[0, 10:30, 21:40] = mask[1, 30:50, 21:40] = True

    def made() -> Tensor:
        return model.pipeline(
            ["a red star", "a blue ring"], given, mask, latents=noise, num_inference_steps=6, guidance_scale=2.0,
            output_type="latent", max_sequence_length=32,
        ).images  # fmt: skip

    with track_sampler(model.backbone, model.pipeline):
        dense = made()
        with attached(model.backbone, IDENTITY[ALL.index(method)], state_of(method)):
            assert torch.equal(made(), dense)
        with attached(model.backbone, method, state_of(method)), watched(model) as seen:
            first = made()
            assert torch.equal(made(), first)
        assert clean(model) and torch.equal(made(), dense)
    assert first.shape == dense.shape and torch.isfinite(first).all() and not torch.equal(first, dense)
    assert len(seen["attn1", 1]) < 12 or method.name == "tgate"
    if method.name == "tgate":  # both halves of two samples, then one
        assert seen["attn1", 1] == [(step, 4 if step < 3 else 2) for step in range(6)] * 2
        assert seen["attn2", 1] == [(step, 4) for step in range(3)] * 2
