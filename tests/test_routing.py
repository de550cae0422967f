"""Routing that is shared: noise, sensitivity, the straight-through gradient and the paper's form."""

import copy
import math
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

import pytest
import torch
from support import build, state_for
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from harness import checkpoints
from harness.attach import attached
from harness.backbones.base import Backbone
from harness.backbones.following import track_sampler
from harness.compose import method_class
from harness.method import Method
from harness.models import Model
from harness.spec import Grid, State, Step
from harness.tokens import top_k
from methods.common.noise import FreshNoise, SeededNoise, gumbel, seeds_of
from methods.common.routing import Routed, RoutingFit, soft_choice
from methods.common.sensitivity import read_sensitivity, sensitivity
from methods.diffcr import DiffCR
from methods.diffcr.fit import DiffCRFit
from methods.uniform import Uniform

# -- Gumbel noise ----------------------------------------------------------------------------------------------------


def test_gumbel_top_k_includes_tokens_as_often_as_sampling_without_replacement() -> None:
    logits, temperature, k, draws = torch.tensor([1.0, 0.0, -0.5, 0.3]), 0.7, 2, 40_000
    noise = gumbel(draws, 4, generator=torch.Generator().manual_seed(0))
    chosen = top_k(logits + temperature * noise, k)
    found = torch.zeros(draws, 4).scatter(1, chosen, 1.0).mean(0)
    weights = (logits / temperature).exp().tolist()
    expected = [0.0] * 4
    for first, second in permutations(range(4), 2):
        share = weights[first] / sum(weights) * weights[second] / (sum(weights) - weights[first])
        expected[first] += share
        expected[second] += share
    assert found.tolist() == pytest.approx(expected, abs=4 * math.sqrt(0.25 / draws))


def test_seeds_come_from_the_signs_of_each_row() -> None:
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    seeds = seeds_of(latents)
    assert len(set(seeds)) == 3
    assert seeds_of(latents.bfloat16()) == seeds_of(1.7 * latents) == seeds
    assert seeds_of(torch.cat([latents[1:2], latents[1:2]])) == [seeds[1]] * 2


def _noisy(name: str, temperature: float = 1.0) -> Method:
    cls = method_class(name)
    values = {"ratio": 0.3} | ({"temperature": temperature} if "temperature" in cls.Settings.model_fields else {})
    return cls(cls.Settings.model_validate(values))


def _draw(model: Model, method: Method, seeds: Sequence[int], steps: int = 4) -> Tensor:
    with (
        track_sampler(model.backbone, model.pipeline),
        attached(model.backbone, method, state_for(method, model.backbone)),
    ):
        return model.pipeline(  # type: ignore[no-any-return]
            ["small blue star"] * len(seeds),
            num_inference_steps=steps,
            guidance_scale=2.0,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="latent",
            **model.call,
        ).images


@pytest.mark.parametrize("name", ["uniform", "diffcr", "sensitivity", "random-ft"])
def test_a_case_keeps_its_tokens_in_any_batch(model: Model, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    call = SeededNoise.__call__

    def watched(self: SeededNoise, given: Any) -> Tensor:
        seen.append(call(self, given).clone())
        return seen[-1]

    monkeypatch.setattr(SeededNoise, "__call__", watched)
    method = _noisy(name)
    alone = _draw(model, method, [5])
    first, seen[:] = list(seen), []
    assert torch.equal(_draw(model, method, [5]), alone)
    seen.clear()
    together = _draw(model, method, [3, 5, 9])
    assert len(seen) == len(first) == 4 * 3  # steps x layers
    for one, three in zip(first, seen, strict=True):
        assert torch.equal(one[0], one[1]) and torch.equal(three[[1, 4]], one)  # both halves the same
        assert not torch.equal(three[0], three[1])
    assert torch.allclose(together[1], alone[0], atol=1e-5)
    assert len({tuple(noise[0].tolist()) for noise in first}) == len(first)  # fresh in every step and layer


def test_no_noise_where_the_temperature_is_zero_and_random_tokens_where_it_is_huge(model: Model) -> None:
    state = state_for(build("uniform", 0.3), model.backbone)
    assert state is not None
    plain = _draw(model, build("uniform", 0.3), [1])  # facts of an adapter from before there was noise
    assert torch.equal(_draw(model, _noisy("uniform", 0.0), [1]), plain)
    facts = {"rescale": "none", "score_scale": 1.0}
    kept = []
    for weight in (torch.ones(32), -torch.ones(32)):
        routed = Routed.fitted(facts, 1e6)

        def block(call: Any, routed: Routed = routed, weight: Tensor = weight) -> Tensor:
            out = routed.block(call, weight, 100)
            kept.append((out != call.x).any(-1))
            return out

        with routed.on(model.backbone, block, [1]), torch.no_grad(), model.backbone.at(Step(0, 4, 900.0)):
            _forward(model.backbone)
    assert torch.equal(kept[0], kept[1]) and int(kept[0][0].sum()) == 100  # the router has no say


def _forward(backbone: Backbone, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 6, 16, 16, generator=generator)
    states = torch.randn(batch, 4, 96, generator=generator)
    out: Tensor = backbone.transformer(
        x, encoder_hidden_states=states, timestep=torch.full((batch,), 900.0), added_cond_kwargs={}
    )[0]
    return out


def test_noise_in_training_is_fresh_in_every_step_and_shared_by_the_runs_of_a_block(model: Model) -> None:
    noise, seen = FreshNoise(2.0), []

    def block(call: Any) -> Tensor:
        seen.append((noise(call), noise(call)))
        return call.x

    for step in (0, 1, 0):
        noise.renew(torch.Generator().manual_seed(step))
        with torch.no_grad(), model.backbone.advise("block", block), model.backbone.at(Step(0, 4, 900.0)):
            _forward(model.backbone)
    assert all(torch.equal(a, b) and a.shape == (2, 256) for a, b in seen)
    first, second, again = (torch.stack([a for a, _ in seen[i : i + 3]]) for i in (0, 3, 6))
    assert torch.equal(first, again) and not torch.equal(first, second)  # a resumed fit repeats its steps
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[0, 0], first[0, 1])


def test_noise_leaves_one_graph_per_region(model: Model) -> None:
    method = _noisy("diffcr")
    state = state_for(method, model.backbone)
    assert state is not None
    state.tensors["ratios"] = torch.tensor([[0.5, 0.0], [0.0, 0.0], [0.2, 0.9]])

    def draw() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        out: Tensor = model.pipeline(
            "star", num_inference_steps=12, generator=generator, output_type="latent", **model.call
        ).images
        return out

    counter = CompileCounter()
    with track_sampler(model.backbone, model.pipeline), attached(model.backbone, method, state), torch.no_grad():
        eager = draw()
        torch._dynamo.reset()
        model.pipeline.transformer.compile(backend=counter)
        compiled = draw()
    torch._dynamo.reset()
    assert torch.equal(compiled, eager)
    assert counter.frame_count <= 3


# -- sensitivity -----------------------------------------------------------------------------------------------------


class _Layer(nn.Module):
    """x + x W, token by token."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states + hidden_states @ self.weight


class _Linear(nn.Module):
    """Two linear layers and a linear reading of their result."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        first, second = (0.5 * torch.randn(3, 3, generator=generator) for _ in range(2))
        self.blocks = nn.ModuleList([_Layer(first), _Layer(second)])
        self.head = nn.Parameter(torch.randn(3, 2, generator=generator), requires_grad=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return hidden_states @ self.head


class _Toy(Backbone):
    parts = frozenset({"block"})

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return self.transformer.blocks  # type: ignore[return-value]

    @property
    def width(self) -> int:
        return 3

    def module(self, layer: int, part: Any) -> nn.Module:
        return self.blocks[layer]

    def grid_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Grid:
        return Grid(1, args[0].shape[1])

    def linear_names(self) -> list[str]:
        return []


def _known(toy: _Linear, x: Tensor) -> list[Tensor]:
    """s = |J u|^2, the squared length of what a token's update does to the prediction, per layer (B, N)."""
    first, second = (block.weight for block in toy.blocks)
    updates = [x @ first, (x + x @ first) @ second]
    after = [torch.eye(3) + second, torch.eye(3)]  # what becomes of an update on its way to the head
    return [(u @ m @ toy.head).square().sum(-1) for u, m in zip(updates, after, strict=True)]


def test_sensitivity_of_two_linear_layers_is_known() -> None:
    toy = _Linear()
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    middle = toy.blocks[0](x)
    last = toy.blocks[1](middle)
    blocks = {0: (x, middle), 1: (middle, last)}
    draws = 4000
    found = sensitivity(last @ toy.head, blocks, draws, torch.Generator().manual_seed(0))
    for layer, expected in enumerate(_known(toy, x.detach())):
        # (r . Ju)^2 is chi-squared with one degree of freedom, times s: a relative standard error of sqrt(2 / draws)
        assert torch.allclose(found[layer], expected, rtol=5 * math.sqrt(2 / draws))


def test_routers_read_the_logarithm_of_the_sensitivity() -> None:
    """In features in which log s is linear the reading is exact: tokens are t * (1, 0, 0), so s grows as t^2."""
    toy = _Linear()
    backbone = _Toy(toy)
    direction = torch.tensor([1.0, 0.0, 0.0])
    scale = torch.tensor([[0.5, 1.0, 1.5, 2.0], [0.6, 0.9, 1.1, 1.4]])
    x = scale[..., None] * direction

    def watch(each: Any = None, **_: Any) -> None:
        for step in range(2):
            with backbone.at(Step(step, 2, 0.0)):
                each(toy(x), None)

    with torch.no_grad():
        ridge = read_sensitivity(backbone, watch, draws=3000)
    weights = ridge.solve()
    assert ridge.tokens == [16, 16]
    log_s = 2 * scale.log()
    centred = log_s - log_s.mean(1, keepdim=True)
    slope = float((centred * scale).sum() / (scale * scale).sum())  # least squares through the origin
    assert float(weights[0, 0]) == pytest.approx(slope, rel=0.05)
    reading = (x @ weights[0]).flatten()
    assert float(ridge.spread(weights)[0]) == pytest.approx(float(reading.square().mean().sqrt()), rel=1e-4)


def test_the_model_is_left_without_gradients(model: Model) -> None:
    backbone = model.backbone
    backbone.transformer.requires_grad_(False)

    def watch(each: Any = None, **_: Any) -> None:
        with backbone.at(Step(0, 4, 900.0)):
            each(_forward(backbone), None)

    with torch.no_grad():
        weights = read_sensitivity(backbone, watch).solve()
    assert weights.shape == (3, 32) and weights.isfinite().all() and not weights.requires_grad
    assert all(p.grad is None for p in backbone.transformer.parameters())


# -- the straight-through gradient -----------------------------------------------------------------------------------


def test_the_soft_choice_sums_to_no_shift_and_crosses_one_half_between_kept_and_left() -> None:
    logits = torch.randn(2, 9, generator=torch.Generator().manual_seed(0), requires_grad=True)
    ranked = logits.detach() + gumbel(2, 9, generator=torch.Generator().manual_seed(1))
    soft = soft_choice(logits, ranked, 4)
    kept = torch.zeros_like(ranked).scatter(1, top_k(ranked, 4), 1.0).bool()
    assert torch.equal(soft > 0.5, kept)
    (soft * torch.randn(2, 9)).sum().backward()
    assert logits.grad is not None and torch.allclose(logits.grad.sum(1), torch.zeros(2), atol=1e-6)


def test_straight_through_changes_no_output_and_tells_the_router_of_tokens_left_out(model: Model) -> None:
    """The gradient of a router is, beside the score's own, sum_n p'(n) (dL/dout_n . update_n) dlogit_n/dw: by hand."""
    backbone, weight = model.backbone, nn.Parameter(torch.randn(32, generator=torch.Generator().manual_seed(0)))
    target = torch.randn(2, 256, 32, generator=torch.Generator().manual_seed(1))
    seen: dict[str, Tensor] = {}

    def run(straight: int) -> tuple[Tensor, Tensor | None]:
        routed = Routed("none", 1.0, straight=straight)
        losses = []

        def block(call: Any) -> Tensor:
            with torch.no_grad():
                seen["x"], seen["all"] = call.x, call.run(call.x) - call.x
            out = routed.block(call, weight, 128)
            seen["out"] = out.detach()
            losses.append((out * target).sum())
            return out

        weight.grad = None
        with routed.on(backbone, block, [0]), backbone.at(Step(0, 4, 900.0)):
            _forward(backbone)
        if losses[0].requires_grad:
            losses[0].backward()
        return seen["out"], weight.grad

    backbone.transformer.requires_grad_(False)
    plain, nothing = run(0)
    taught, gradient = run(1)
    assert torch.equal(plain, taught) and nothing is None and gradient is not None
    x = seen["x"]
    logits = (x @ weight.detach()).requires_grad_()
    index = top_k(logits.detach().sigmoid(), 128)
    left = torch.ones(2, 256).scatter(1, index, 0.0).bool()
    update = torch.where(left[..., None], seen["all"], taught - x)
    soft_choice(logits, logits.detach(), 128).backward((target * update).sum(-1))
    assert logits.grad is not None
    assert torch.allclose(gradient, (logits.grad[..., None] * x).sum((0, 1)), rtol=1e-4, atol=1e-4)


# -- the paper's form, and adapters from before ----------------------------------------------------------------------


def test_the_preset_is_the_pseudocode_wherever_nothing_else_is_said() -> None:
    method = DiffCR(DiffCR.Settings(preset="paper"))
    of_fit, of_loop = method.fit_defaults()
    paper = DiffCRFit.model_validate({**of_fit, "every": 2, "regions": 10})
    assert (paper.rescale, paper.score_scale, paper.score_dense, paper.warm_start) == ("mlp", 1.0, True, "random")
    assert paper.router_lr == 4.0
    assert (paper.noise, paper.straight, paper.together, paper.settle) == (0.0, 0, 0.0, 0.0)
    assert paper.adjust > 1, "the paper adjusts the coefficient for text-to-image"
    assert paper.rounding == "nearest" and paper.every == 2 and paper.regions == 10
    assert of_loop == {"distill": 0.0} and DiffCR().fit_defaults() == ({}, {})
    assert RoutingFit.model_validate(Uniform(Uniform.Settings(preset="paper")).fit_defaults()[0]).score_dense
    assert method.adapter() == "diffcr-lt-20-paper"


def test_the_score_multiplies_the_mlp_where_all_tokens_are_kept(model: Model) -> None:
    """At scale 1 and zero weights the score is 1/2 everywhere: the MLP branch is halved, in every layer."""
    backbone = model.backbone
    method = build("diffcr", 0.3)
    facts = {"rescale": "mlp", "score_scale": 1.0, "steps": 4}
    state = State({"router": torch.zeros(3, 32), "ratios": torch.zeros(3, 1)}, {**facts, "score_dense": True})
    halved = copy.deepcopy(backbone.transformer)
    for block in halved.transformer_blocks:
        block.ff.net[2].weight.data *= 0.5
        block.ff.net[2].bias.data *= 0.5
    with torch.no_grad(), backbone.at(Step(0, 4, 900.0)):
        with attached(backbone, method, state):
            found = _forward(backbone)
        with attached(backbone, method, State(state.tensors, facts)):
            assert torch.equal(_forward(backbone), _forward(backbone))
            untouched = _forward(backbone)
        dense = _forward(backbone)
    twin = type(backbone)(halved)
    with torch.no_grad(), twin.at(Step(0, 4, 900.0)):
        expected = _forward(twin)
    assert torch.allclose(found, expected, atol=1e-5) and torch.equal(untouched, dense)
    assert not torch.allclose(found, dense, atol=1e-3)


def test_settings_of_adapters_from_before_are_found(tiny_folder: Any, tmp_path: Any) -> None:
    from harness.models import load

    old = {"method": "uniform", "settings": {"ratio": 0.3, "seed": 0}, "rescale": "mlp", "score_scale": 2.0}
    checkpoints.save(tmp_path / "uniform-30.safetensors", {"router": torch.zeros(3, 32)}, old)
    found = load(str(tiny_folder), adapters=(tmp_path,)).fitted("uniform")
    assert found == [method_class("uniform").Settings.model_validate({"ratio": 0.3}).model_dump(mode="json")]
