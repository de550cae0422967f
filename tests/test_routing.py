"""Routing as it is trained: the straight-through gradient, the paper's form, and adapters from before."""

import copy
from types import SimpleNamespace
from typing import Any

import torch
from support import build, forward_once
from torch import Tensor, nn

from harness import checkpoints
from harness.attach import attached
from harness.compose import method_class
from harness.models import Model
from harness.spec import Grid, State, Step
from harness.tokens import top_k
from methods.common.noise import gumbel
from methods.common.routing import Routed, _averaged, soft_choice
from methods.common.routing_settings import RoutingFit
from methods.diffcr import DiffCR
from methods.diffcr.fit import DiffCRFit
from methods.uniform import Uniform

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
            forward_once(backbone)
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
            found = forward_once(backbone)
        with attached(backbone, method, State(state.tensors, facts)):
            assert torch.equal(forward_once(backbone), forward_once(backbone))
            untouched = forward_once(backbone)
        dense = forward_once(backbone)
    twin = type(backbone)(halved)
    with torch.no_grad(), twin.at(Step(0, 4, 900.0)):
        expected = forward_once(twin)
    assert torch.allclose(found, expected, atol=1e-5) and torch.equal(untouched, dense)
    assert not torch.allclose(found, dense, atol=1e-3)


def test_settings_of_adapters_from_before_are_found(tiny_folder: Any, tmp_path: Any) -> None:
    from harness.models import load

    old = {"method": "uniform", "settings": {"ratio": 0.3, "seed": 0}, "rescale": "mlp", "score_scale": 2.0}
    checkpoints.save(tmp_path / "uniform-30.safetensors", {"router": torch.zeros(3, 32)}, old)
    found = load(str(tiny_folder), adapters=(tmp_path,)).fitted("uniform")
    assert found == [method_class("uniform").Settings.model_validate({"ratio": 0.3}).model_dump(mode="json")]


def test_logits_of_tokens_of_their_own_are_averaged_place_by_place() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [5.0, 7.0, 9.0]])
    call = SimpleNamespace(index=None, grid=Grid(2, 2))
    assert _averaged(logits, call).tolist() == [[3.0, 4.5, 6.0]] * 2  # type: ignore[arg-type]
    call.index = torch.tensor([[0, 1, 3], [1, 2, 3]])
    assert _averaged(logits, call).tolist() == [[1.0, 3.5, 6.0], [3.5, 7.0, 6.0]]  # type: ignore[arg-type]
