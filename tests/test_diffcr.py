"""DiffCR: ratios, bins, mixing, gradients, and what is frozen for inference."""

import copy

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from support import build, compiled_as_eager, state_for
from torch import Tensor, nn

from harness.attach import attached
from harness.backbones.following import track_sampler
from harness.method import Fitting
from harness.models import Model
from harness.spec import Call, State, Step
from methods.common.routing import Routers
from methods.diffcr.fit import DiffCRFit, magnified, spread
from methods.diffcr.ratios import Ratios


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
    with track_sampler(model.backbone, model.pipeline), attached(model.backbone, method, state):
        assert "forward" not in vars(model.backbone.blocks[1])  # all kept: the layer is left alone
        model.pipeline("star", num_inference_steps=4, output_type="latent", **model.call)
    for handle in handles:
        handle.remove()
    assert counts == {0: [128, 128, 256, 256], 1: [256] * 4, 2: [205, 205, 26, 26]}
    assert method.effective_ratio(state) == pytest.approx((0.5 + 0 + 0.2 + 0.9) / 6)


def test_averaged_timesteps_cost_as_much_at_any_number_of_steps(model: Model) -> None:
    method = build("diffcr", 0.3)
    state = state_for(method, model.backbone)  # type: ignore[arg-type]
    assert state is not None
    state.tensors["ratios"] = torch.tensor([[0.5, 0.2, 0.1, 0.0]] * 3)
    counts: list[list[int]] = []
    for control in ("", "averaged-timesteps"):
        own = type(method)(method.settings.model_copy(update={"control": control}))
        seen: list[int] = []
        handle = model.backbone.blocks[0].attn1.to_q.register_forward_pre_hook(
            lambda _m, args, seen=seen: seen.append(args[0].shape[1])
        )
        with track_sampler(model.backbone, model.pipeline), attached(model.backbone, own, state):
            model.pipeline("star", num_inference_steps=6, output_type="latent", **model.call)
        handle.remove()
        counts.append(seen)
    assert counts[0] == [128, 128, 205, 231, 231, 256]  # regions of 2, 1, 2 and 1 steps
    assert len(set(counts[1])) == 1 and abs(sum(counts[1]) - sum(counts[0])) <= 6


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
    st.floats(-0.05, 0.05),
)
def test_balanced_bins_come_closest_to_the_target_and_stay_next_to_the_ratio(
    values: list[float], steps: list[int], missed: float
) -> None:
    ratios, weights = Ratios(2, 4), torch.tensor(steps) / sum(steps)
    ratios.values.data[:] = torch.tensor(values).view(2, 4)
    target = min(max(ratios.mean(weights).item() + missed, 0.0), 0.9)
    nearest, balanced = ratios.frozen(), ratios.frozen(weights, target)

    def off(table: Tensor) -> float:
        return abs((table.mean(0) * weights).sum().item() - target)

    assert off(balanced) <= off(nearest) + 1e-6
    assert ((balanced - ratios.values.detach()).abs() < 0.1 + 1e-5).all()
    assert torch.allclose(balanced * 10, (balanced * 10).round(), atol=1e-4)


def test_balanced_bins_by_hand() -> None:
    ratios = Ratios(4, 1)
    ratios.values.data[:] = torch.tensor([[0.14], [0.13], [0.12], [0.01]])  # mean 0.1; nearest bins: mean 0.075
    balanced = ratios.frozen(torch.ones(1), 0.1).flatten().tolist()
    assert balanced == [pytest.approx(0.2), pytest.approx(0.1), pytest.approx(0.1), 0.0]
    missed = ratios.frozen(torch.ones(1), 0.125).flatten().tolist()  # the target was 0.125: two go up
    assert missed == [pytest.approx(0.2), pytest.approx(0.2), pytest.approx(0.1), 0.0]


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

    routers.warm_start(backbone, lambda *_, **__: run(16), "update")
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
    fitting = method.fitting(backbone, 4, DiffCRFit(noise=0, rescale="mlp"))  # at step 0 layer 0 runs both bins
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


def _fitting(model: Model, every: int) -> tuple[Fitting, nn.Parameter]:
    """In double precision, so that finite differences can be taken; random routers."""
    torch.manual_seed(0)
    model.backbone.transformer.double()
    fitting = build("diffcr", 0.2).fitting(model.backbone, 4, DiffCRFit(every=every, together=0, noise=0, straight=0))
    nn.init.normal_(fitting.module.double().routers.weight, std=1.0)  # type: ignore[union-attr]
    return fitting, fitting.module.ratios.values  # type: ignore[union-attr,return-value]


def _loss(model: Model, fitting: Fitting, step: int = 0) -> Tensor:
    """Distance of the model's output at sampling step 1 of 4 (region 1) to noise, and the fit's own loss."""
    generator = torch.Generator().manual_seed(0)
    x, target = (torch.randn(2, 6, 16, 16, dtype=torch.float64, generator=generator) for _ in range(2))
    states = torch.randn(2, 4, 96, dtype=torch.float64, generator=generator)
    fitting.target(0.3, step, 1000)
    with model.backbone.at(Step(1, 4, 700.0)), fitting.attach():
        out = model.backbone.transformer(
            x, encoder_hidden_states=states, timestep=torch.full((2,), 700.0), added_cond_kwargs={}
        )[0]
    return (out - target).square().mean() + sum(fitting.losses().values())


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_gradient_of_a_ratio_against_finite_differences(model: Model, layer: int) -> None:
    fitting, values = _fitting(model, every=1)
    values.data[layer, 1] = 0.14
    _loss(model, fitting).backward()
    assert values.grad is not None
    found = values.grad.clone()
    ends = []
    for shift in (1e-4, -1e-4):
        values.data[layer, 1] = 0.14 + shift
        with torch.no_grad():
            ends.append(float(_loss(model, fitting)))
    assert found[layer, 1].item() == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-4)
    away = found[:, [0, 2, 3]]  # other regions feel the target alone
    assert torch.allclose(away, away[0, 0].expand_as(away)) and away[0, 0] < 0


def test_rare_two_bin_steps_give_the_gradient_of_the_two_pass_form_on_average(model: Model) -> None:
    """With one routed layer the draws of others cannot matter: the mean over steps is the two-pass gradient."""
    grads = {}
    for every in (1, 4):
        twin = copy.deepcopy(model)
        fitting, values = _fitting(twin, every)
        values.data[2, 1] = 0.14
        steps = range(1 if every == 1 else 8)
        for step in steps:
            _loss(twin, fitting, step).backward()
        assert values.grad is not None
        grads[every] = values.grad / len(steps)
    assert torch.allclose(grads[4][2], grads[1][2], rtol=1e-6)


def test_a_settled_fit_runs_the_bins_of_inference(model: Model) -> None:
    backbone = model.backbone
    method = build("diffcr", 0.2)
    fitting = method.fitting(backbone, 4, DiffCRFit(noise=0))
    nn.init.normal_(fitting.module.routers.weight, std=1.0)  # type: ignore[union-attr,arg-type]
    fitting.module.ratios.values.data.uniform_(0, 0.4)  # type: ignore[union-attr,operator]
    x, states = torch.randn(1, 6, 16, 16), torch.randn(1, 4, 96)

    def out() -> Tensor:
        with torch.no_grad(), backbone.at(Step(2, 4, 300.0)):
            return backbone.transformer(
                x, encoder_hidden_states=states, timestep=torch.tensor([300.0]), added_cond_kwargs={}
            )[0]

    fitting.target(0.2, 90, 100)
    with fitting.attach():
        settled = out()
    state = fitting.state()
    assert method.effective_ratio(state) == pytest.approx(0.2, abs=0.1 / 12)
    with attached(backbone, method, state):
        assert torch.equal(out(), settled)


def test_regions_of_a_layer_follow_each_other() -> None:
    ratios, weights = Ratios(2, 3, together=0.5), torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, -1.0]])
    (ratios.values * weights).sum().backward()
    assert ratios.values.grad is not None
    assert ratios.values.grad.tolist() == [[1.5, 0.5, 0.5], [0.5, 2.5, -0.5]]


def test_ratios_come_to_rest_before_they_are_frozen(model: Model) -> None:
    fitting = build("diffcr", 0.2).fitting(model.backbone, 4, DiffCRFit(settle=0.5))
    values = fitting.module.ratios.values  # type: ignore[union-attr]
    moved = []
    for step in range(100):
        fitting.target(0.2, step, 100)
        values.data += 0.003  # type: ignore[operator]
        before = values.data.mean().item() - 0.003  # type: ignore[operator]
        fitting.after_step()
        moved.append(values.data.mean().item() - before)  # type: ignore[operator]
    assert moved[:33] == pytest.approx([0.003] * 33, abs=1e-6)
    assert moved[40] == pytest.approx(0.6 * 0.003, abs=1e-6) and moved[49] == pytest.approx(0.06 * 0.003, abs=1e-6)


def test_a_frozen_adapter_compiles_to_one_graph_per_region(model: Model) -> None:
    method = build("diffcr", 0.2)
    state = state_for(method, model.backbone)  # type: ignore[arg-type]
    assert state is not None
    state.tensors["ratios"] = torch.tensor([[0.5, 0.0], [0.0, 0.0], [0.2, 0.9]])
    assert compiled_as_eager(model, method, state) <= 3  # one for each of two regions; torch may make one of them anew


def test_the_coefficient_grows_where_the_mean_falls_behind_and_rests_where_it_catches_up(model: Model) -> None:
    fitting = build("diffcr", 0.2).fitting(model.backbone, 4, DiffCRFit(settle=0, adjust=2.0))
    values = fitting.module.ratios.values  # type: ignore[union-attr]

    def step(target: float, mean: float) -> float:
        fitting.target(target, 0, 1000)
        values.data.fill_(mean)  # type: ignore[operator]
        fitting.after_step()
        return fitting.log()["coefficient"]

    assert step(0.10, 0.00) == pytest.approx(0.6)  # behind, and further than before
    assert step(0.11, 0.00) == pytest.approx(1.2)
    assert step(0.12, 0.05) == pytest.approx(1.2)  # behind, but on its way
    assert step(0.13, 0.07) == pytest.approx(1.2)
    assert step(0.13, 0.07) == pytest.approx(2.4)  # it stopped
    assert step(0.13, 0.129) == pytest.approx(1.2)  # there
    assert step(0.13, 0.13) == pytest.approx(0.6)
    assert step(0.13, 0.14) == step(0.13, 0.14) == pytest.approx(0.3)  # never below where it started
