"""Gumbel noise in the choice of tokens."""

import math
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import pytest
import torch
from support import build, compiled_as_eager, forward_once, state_for
from torch import Tensor

from harness.attach import attached
from harness.backbones.following import track_sampler
from harness.compose import method_class
from harness.method import Method
from harness.models import Model
from harness.spec import Step
from harness.tokens import top_k
from methods.common.noise import FreshNoise, SeededNoise, gumbel, seeds_of
from methods.common.routing import Routed


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


def test_a_method_goes_on_where_a_pipeline_leaves_inference_mode(model: Model) -> None:
    given, noise = model.backbone.inputs(2, text_tokens=8), SeededNoise()
    with torch.no_grad(), noise.on(model.backbone):
        for index, inference in enumerate((True, False, True)):
            with torch.inference_mode(inference), model.backbone.at(Step(index, 3, 500.0)):
                model.backbone.transformer(**given)


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
            forward_once(model.backbone)
    assert torch.equal(kept[0], kept[1]) and int(kept[0][0].sum()) == 100  # the router has no say


def test_noise_in_training_is_fresh_in_every_step_and_shared_by_the_runs_of_a_block(model: Model) -> None:
    noise, seen = FreshNoise(2.0), []

    def block(call: Any) -> Tensor:
        seen.append((noise(call), noise(call)))
        return call.x

    for step in (0, 1, 0):
        noise.renew(torch.Generator().manual_seed(step))
        with torch.no_grad(), model.backbone.advise("block", block), model.backbone.at(Step(0, 4, 900.0)):
            forward_once(model.backbone)
    assert all(torch.equal(a, b) and a.shape == (2, 256) for a, b in seen)
    first, second, again = (torch.stack([a for a, _ in seen[i : i + 3]]) for i in (0, 3, 6))
    assert torch.equal(first, again) and not torch.equal(first, second)  # a resumed fit repeats its steps
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[0, 0], first[0, 1])


def test_noise_leaves_one_graph_per_region(model: Model) -> None:
    method = _noisy("diffcr")
    state = state_for(method, model.backbone)
    assert state is not None
    state.tensors["ratios"] = torch.tensor([[0.5, 0.0], [0.0, 0.0], [0.2, 0.9]])
    assert compiled_as_eager(model, method, state) <= 3
