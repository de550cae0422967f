"""One contract for every registered method: registering means being tested."""

from contextlib import AbstractContextManager, nullcontext

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from support import build, state_for
from torch import Tensor

from harness import registry
from harness.attach import attached
from harness.backbones.base import follow
from harness.measure import flops
from harness.method import Method
from harness.models import Model
from harness.routing import Routers
from harness.spec import Call, State, Step
from methods.diffcr.fit import magnified, spread
from methods.diffcr.ratios import Ratios

COMPRESSING = [name for name in registry.methods if registry.methods.get(name).compresses]


def on(model: Model, method: Method | None) -> AbstractContextManager[object]:
    if method is None:
        return nullcontext()
    return attached(model.backbone, method, state_for(method, model.backbone))  # type: ignore[arg-type]


def draw(model: Model, method: Method | None = None, batch: int = 1, seed: int = 0) -> Tensor:
    prompts = ["a large red plain circle top left", "on a pink plain background", "small blue star"][:batch]
    with follow(model.backbone, model.pipeline), on(model, method):
        return model.pipeline(
            prompts,
            num_inference_steps=4,
            guidance_scale=2.0,
            generator=[torch.Generator().manual_seed(seed + i) for i in range(batch)],
            output_type="latent",
            **model.call,
        ).images


def weights(model: Model) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.backbone.transformer.state_dict().items()}


@pytest.mark.parametrize("name", list(registry.methods))
def test_identity_setting_is_dense(model: Model, name: str) -> None:
    assert torch.equal(draw(model, build(name, 0.0)), draw(model))


@pytest.mark.parametrize("name", COMPRESSING)
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


@pytest.mark.parametrize("name", COMPRESSING)
def test_removal_after_an_exception(model: Model, name: str) -> None:
    dense = draw(model)
    with pytest.raises(ZeroDivisionError), on(model, build(name, 0.3)):
        raise ZeroDivisionError
    assert all("forward" not in vars(module) for module in model.backbone.transformer.modules())
    assert torch.equal(draw(model), dense)


@pytest.mark.parametrize("name", COMPRESSING)
def test_flops_fall_with_the_ratio(model: Model, name: str) -> None:
    def gmacs(ratio: float) -> float:
        return flops.count(model.backbone.transformer, lambda: draw(model, build(name, ratio)), images=1).gmacs

    dense, low, high = gmacs(0.0), gmacs(0.1), gmacs(0.5)
    assert dense > low > high


@pytest.mark.parametrize("name", COMPRESSING)
def test_the_global_random_state_is_untouched(model: Model, name: str) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    draw(model, build(name, 0.3))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", COMPRESSING)
@pytest.mark.parametrize(("batch", "height", "width"), [(3, 16, 16), (1, 15, 15), (2, 11, 7)])
def test_batches_and_odd_grids(model: Model, name: str, batch: int, height: int, width: int) -> None:
    x = torch.randn(batch, 6, height, width, generator=torch.Generator().manual_seed(0))
    text = torch.randn(batch, 8, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), model.backbone.at(Step(0, 4, 900.0)), on(model, build(name, 0.3)):
        out = model.backbone.transformer(
            x,
            encoder_hidden_states=text,
            timestep=torch.full((batch,), 900),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
        )[0]
    assert out.shape == x.shape and torch.isfinite(out).all()


@pytest.mark.parametrize("name", COMPRESSING)
def test_blocks_get_as_many_tokens_as_the_ratio_says(model: Model, name: str) -> None:
    seen: list[int] = []
    block = model.backbone.blocks[1]
    handle = block.attn1.to_q.register_forward_pre_hook(lambda _m, args: seen.append(args[0].shape[1]))
    draw(model, build(name, 0.3))
    handle.remove()
    # 256 tokens at 30 %: 179.2 kept; ToMe merges int(76.8) away, MoD rounds down, the others up
    assert set(seen) == {{"tome": 180, "uniform": 179}.get(name, 180)}


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


def test_diffcr_follows_its_table_by_layer_and_region(model: Model) -> None:
    method = build("diffcr", 0.3)
    state = state_for(method, model.backbone)  # type: ignore[arg-type]
    assert state is not None
    state.tensors["ratios"] = torch.tensor([[0.5, 0.0], [0.0, 0.0], [0.2, 0.9]])
    counts: dict[int, list[int]] = {0: [], 1: [], 2: []}
    handles = [
        block.attn1.to_q.register_forward_pre_hook(lambda _m, args, layer=layer: counts[layer].append(args[0].shape[1]))
        for layer, block in enumerate(model.backbone.blocks)
    ]
    with follow(model.backbone, model.pipeline), attached(model.backbone, method, state):
        assert "forward" not in vars(model.backbone.blocks[1])  # all kept: the layer is left alone
        model.pipeline("star", num_inference_steps=4, output_type="latent", **model.call)
    for handle in handles:
        handle.remove()
    assert counts == {0: [128, 128, 256, 256], 1: [256] * 4, 2: [205, 205, 26, 26]}
    assert method.reached(state) == pytest.approx((0.5 + 0 + 0.2 + 0.9) / 6)


@pytest.mark.parametrize(
    ("value", "low", "high", "share"),
    [(0.0, 0.0, 0.1, 0.0), (0.12, 0.1, 0.2, 0.2), (0.3, 0.3, 0.4, 0.0), (0.9, 0.8, 0.9, 1.0)],
)
def test_bins_around_a_ratio(value: float, low: float, high: float, share: float) -> None:
    ratios = Ratios(2, 3)
    ratios.values.data[1, 2] = value
    got = ratios.bracket(1, 2)
    assert (got[0], got[1]) == (pytest.approx(low), pytest.approx(high))
    assert got[2].item() == pytest.approx(share, abs=1e-5)
    got[2].backward()
    assert ratios.values.grad is not None
    assert ratios.values.grad[1, 2].item() == pytest.approx(10.0)  # one bin is 0.1 wide
    assert ratios.values.grad.count_nonzero() == 1


def test_nearest_bins() -> None:
    ratios = Ratios(1, 4)
    ratios.values.data[:] = torch.tensor([[0.04, 0.06, 0.31, 0.95]])
    assert ratios.frozen().tolist() == [pytest.approx([0.0, 0.1, 0.3, 0.9])]


@given(
    st.lists(st.floats(0, 0.9), min_size=8, max_size=8),
    st.lists(st.integers(1, 5), min_size=4, max_size=4),
)
def test_balanced_bins_keep_the_mean_and_stay_next_to_the_ratio(values: list[float], steps: list[int]) -> None:
    ratios, weights = Ratios(2, 4), torch.tensor(steps) / sum(steps)
    ratios.values.data[:] = torch.tensor(values).view(2, 4)
    exact = ratios.mean(weights).item()
    nearest, balanced = ratios.frozen(), ratios.frozen(weights)

    def off(table: Tensor) -> float:
        return abs((table.mean(0) * weights).sum().item() - exact)

    assert off(balanced) <= off(nearest) + 1e-6
    assert ((balanced - ratios.values.detach()).abs() < 0.1 + 1e-5).all()
    assert torch.allclose(balanced * 10, (balanced * 10).round(), atol=1e-4)


def test_balanced_bins_by_hand() -> None:
    ratios = Ratios(4, 1)
    ratios.values.data[:] = torch.tensor([[0.14], [0.13], [0.12], [0.01]])  # mean 0.1; nearest bins: mean 0.075
    balanced = ratios.frozen(torch.ones(1)).flatten().tolist()
    assert balanced == [pytest.approx(0.2), pytest.approx(0.1), pytest.approx(0.1), 0.0]


def test_warm_routers_read_how_much_a_block_changes_a_token(model: Model) -> None:
    backbone = model.backbone
    routers = Routers(backbone.layers, backbone.width)
    generator = torch.Generator().manual_seed(0)
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def watch(call: Call) -> Tensor:
        out = call.run(call.x)
        seen[call.layer] = call.x, (out - call.x).norm(dim=-1)
        return out

    def run(batch: int) -> None:
        x = torch.randn(batch, 6, 16, 16, generator=generator)
        states = torch.randn(batch, 4, 96, generator=generator)
        with torch.no_grad(), backbone.at(Step(0, 4, 500.0)):
            backbone.transformer(
                x, encoder_hidden_states=states, timestep=torch.full((batch,), 500.0), added_cond_kwargs={}
            )

    with routers.warm_start(backbone):
        run(16)
    with backbone.advise("block", watch):
        run(8)  # others than those it was made from
    for layer, (x, added) in seen.items():
        logits = (x @ routers.weight[layer].detach()).flatten(1)
        assert 0.1 < logits.square().mean().sqrt() < 0.9
        both = torch.stack([(v - v.mean(1, keepdim=True)).flatten() for v in (logits, added.flatten(1))])
        assert torch.corrcoef(both)[0, 1] > 0.3


def test_a_layer_that_runs_one_bin_draws_it_by_proximity() -> None:
    for share in (0.0, 0.2, 0.5, 1.0):
        for layer in range(4):
            drawn = [spread(step, layer) < share for step in range(500)]
            assert sum(drawn) / 500 == pytest.approx(share, abs=0.01)


def test_the_magnified_gradient() -> None:
    share = torch.tensor(0.3, requires_grad=True)
    out = magnified(share, 4)
    out.backward()
    assert out.item() == pytest.approx(0.3) and share.grad is not None and share.grad.item() == 4.0


def test_two_bin_mixing_by_hand(model: Model) -> None:
    """At 12 % every block's output is 0.8 of the 10 % bin and 0.2 of the 20 % bin."""
    backbone = model.backbone
    method = build("diffcr", 0.2)
    fitting = method.fitting(backbone, 4)  # at step 0 layer 0 runs both bins
    values, weight = fitting.module.ratios.values, fitting.module.routers.weight  # type: ignore[union-attr]
    torch.nn.init.normal_(weight, std=1.0)
    values.data.fill_(0.12)  # type: ignore[union-attr]
    x = torch.randn(1, 256, 32, generator=torch.Generator().manual_seed(0))
    conditioning = {"encoder_hidden_states": torch.randn(1, 4, 32), "timestep": torch.randn(1, 6 * 32)}

    def block() -> Tensor:
        backbone._enter(None, (torch.zeros(1, 6, 16, 16),), {})  # type: ignore[arg-type]
        with torch.no_grad(), backbone.at(Step(0, 4, 900.0)):
            return backbone.blocks[0](x, **conditioning)

    with fitting.attach():
        mixed = block()
    outs = []
    for ratio in (0.1, 0.2):
        state = State(
            {"ratios": torch.full((3, 4), ratio), "router": weight.detach()}, {"rescale": "mlp", "score_scale": 2.0}
        )  # type: ignore[union-attr]
        with attached(backbone, method, state):
            outs.append(block())
    assert torch.allclose(mixed, 0.8 * outs[0] + 0.2 * outs[1], atol=1e-5)
