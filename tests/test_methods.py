"""One contract for every registered method: registering means being tested."""

from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from support import build, state_for
from torch import Tensor

from harness import registry
from harness.attach import attached
from harness.backbones.following import track_sampler
from harness.measure import flops
from harness.method import Method
from harness.models import Model
from harness.spec import Step

COMPRESSING = [name for name in registry.methods if registry.methods.get(name).compresses]
CHANGING = [*COMPRESSING, "precision"]  # compiling takes its time and has a test of its own
IDENTITY = [name for name in registry.methods if name not in ("precision", "compile")]  # these two have no such setting
# 256 tokens at 30 %: 179.2 kept; ToMe merges int(76.8) away, MoD rounds down (random-ft with it), the others up
KEPT = {
    "tome": 180, "uniform": 179, "random-ft": 179, "diffcr": 180, "static": 180, "random": 180, "sensitivity": 180,
}  # fmt: skip


def on(model: Model, method: Method | None) -> AbstractContextManager[object]:
    if method is None:
        return nullcontext()
    return attached(model.backbone, method, state_for(method, model.backbone))  # type: ignore[arg-type]


def draw(model: Model, method: Method | None = None, batch: int = 1, seed: int = 0, steps: int = 6) -> Tensor:
    prompts = ["a large red plain circle top left", "on a pink plain background", "small blue star"][:batch]
    with track_sampler(model.backbone, model.pipeline), on(model, method):
        return model.pipeline(
            prompts,
            num_inference_steps=steps,
            guidance_scale=2.0,
            generator=[torch.Generator().manual_seed(seed + i) for i in range(batch)],
            output_type="latent",
            **model.call,
        ).images


def weights(model: Model) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.backbone.transformer.state_dict().items()}


@pytest.mark.parametrize("name", IDENTITY)
def test_identity_setting_is_dense(model: Model, name: str) -> None:
    assert torch.equal(draw(model, build(name, 0.0)), draw(model))


@pytest.mark.parametrize("name", CHANGING)
def test_removal_is_bit_exact_and_state_does_not_leak(model: Model, name: str) -> None:
    dense, before = draw(model), weights(model)
    method = build(name, 0.3)
    first = draw(model, method)
    draw(model, method, seed=7)
    assert torch.equal(draw(model, method), first)  # whatever ran in between
    assert not torch.equal(first, dense)
    after = model.backbone.transformer.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[k], before[k]) for k in before)
    assert torch.equal(draw(model), dense)


@pytest.mark.parametrize("name", CHANGING)
def test_removal_after_an_exception(model: Model, name: str) -> None:
    dense = draw(model)
    with pytest.raises(ZeroDivisionError), on(model, build(name, 0.3)):
        raise ZeroDivisionError
    for module in model.backbone.transformer.modules():
        assert "forward" not in vars(module) and not hasattr(module, "_diffusers_hook")
    assert torch.equal(draw(model), dense)


@pytest.mark.parametrize("name", COMPRESSING)
def test_flops_fall_as_the_strength_grows(model: Model, name: str) -> None:
    def gmacs(method: Method | None) -> float:
        return flops.count(model.backbone.transformer, lambda: draw(model, method), images=1, steps=6).gmacs

    cls = registry.methods.get(name)
    if "ratio" in cls.Settings.model_fields:
        assert gmacs(None) > gmacs(build(name, 0.1)) > gmacs(build(name, 0.5))
    else:
        strongest = cls(cls.Settings.model_validate({cls.strength: cls.sweep[-1]}))
        assert gmacs(None) > gmacs(strongest)


@pytest.mark.parametrize("name", CHANGING)
def test_the_global_random_state_is_untouched(model: Model, name: str) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    draw(model, build(name, 0.3))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", CHANGING)
@pytest.mark.parametrize(("batch", "height", "width"), [(3, 16, 16), (1, 15, 15), (2, 11, 7)])
def test_batches_and_odd_grids(model: Model, name: str, batch: int, height: int, width: int) -> None:
    x = torch.randn(batch, 6, height, width, generator=torch.Generator().manual_seed(0))
    text = torch.randn(batch, 8, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), model.backbone.at(Step(0, 6, 900.0)), on(model, build(name, 0.3)):
        out = model.backbone.transformer(
            x,
            encoder_hidden_states=text,
            timestep=torch.full((batch,), 900),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
        )[0]
    assert out.shape == x.shape and torch.isfinite(out).all()


@pytest.mark.parametrize("name", list(KEPT))
def test_blocks_get_as_many_tokens_as_the_ratio_says(model: Model, name: str) -> None:
    seen: list[int] = []
    block = model.backbone.blocks[1]
    handle = block.attn1.to_q.register_forward_pre_hook(lambda _m, args: seen.append(args[0].shape[1]))
    draw(model, build(name, 0.3))
    handle.remove()
    assert set(seen) == {KEPT[name]}


def test_lora_is_merged_and_taken_back(model: Model) -> None:
    method = build("uniform", 0.3)
    state = state_for(method, model.backbone)  # type: ignore[arg-type]
    assert state is not None
    down, up = torch.randn(2, 32), torch.randn(32, 2)
    state.tensors["lora.transformer_blocks.0.attn1.to_q.A"] = down
    state.tensors["lora.transformer_blocks.0.attn1.to_q.B"] = up
    weight = model.backbone.blocks[0].attn1.to_q.weight
    original, storage = weight.detach().clone(), weight.data_ptr()
    with attached(model.backbone, method, state):
        assert torch.allclose(weight, original + up @ down)
    assert torch.equal(weight, original) and weight.data_ptr() == storage
