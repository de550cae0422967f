"""TGate by itself, by hand, and how both halves of guidance are told from one."""

import pytest
import torch
from caches import LAYERS, STEPS, TOKENS, WIDTH, draw, gmacs, images, watched
from torch import Tensor

import harness
from harness import guidance
from harness.attach import attached
from harness.backbones.following import track_sampler
from harness.errors import UserError
from harness.models import Model
from harness.spec import Step
from harness.zoo.shapes import networks
from methods.tgate import TGate, gated_steps
from tests.measure.hand_formulas_pixart import block_macs


@pytest.mark.parametrize(
    ("share", "count", "gated"), [(0.0, 8, 0), (0.5, 8, 4), (0.3, 20, 6), (0.95, 8, 7), (0.5, 2, 1)]
)
def test_gated_steps(share: float, count: int, gated: int) -> None:
    assert gated_steps(share, count) == gated


def test_tgate_freezes_cross_attention_and_runs_one_half(model: Model) -> None:
    with watched(model) as seen:
        draw(model, TGate(TGate.Settings(gated=0.25)), batch=2)
    for layer in range(LAYERS):
        assert seen["attn2", layer] == [(step, 4) for step in range(6)]
        assert seen["attn1", layer] == seen["ff", layer] == [(step, 4 if step < 6 else 2) for step in range(STEPS)]


def test_tgate_reuses_self_attention_before_the_gate_where_asked(model: Model) -> None:
    """As the authors: a warm-up of two steps, then those that three divides and the gate step, 5; behind it all run."""
    with watched(model) as seen:
        draw(model, TGate(TGate.Settings(gated=0.25, self_interval=3)), batch=2)
    for layer in range(LAYERS):
        assert [step for step, _ in seen["attn1", layer]] == [0, 1, 3, 5, 6, 7]
        assert [step for step, _ in seen["attn2", layer]] == list(range(6))
        assert seen["ff", layer] == [(step, 4 if step < 6 else 2) for step in range(STEPS)]


def test_tgate_flops_by_hand(model: Model) -> None:
    *full, last = gmacs(model, TGate(TGate.Settings(gated=0.125)))
    block = block_macs(TOKENS, WIDTH, networks.TEXT_TOKENS)
    spared = LAYERS * (block.cross_linear + block.cross_attention) / 1e9
    assert len(set(full)) == 1 and last == pytest.approx(full[0] / 2 - spared)


def test_tgate_gives_the_halves_mean_and_stops_guidance(model: Model) -> None:
    """The gated steps, computed by hand from the model with its cross-attention replaced by the mean."""
    backbone, said, crossed = model.backbone, [], []
    transformer = backbone.transformer
    handle = transformer.register_forward_hook(
        lambda _m, args, kwargs, out: said.append((args[0], kwargs, out[0])), with_kwargs=True
    )
    inner = [
        block.attn2.to_out[0].register_forward_hook(lambda _m, _args, out: crossed.append(out))
        for block in backbone.blocks
    ]
    draw(model, TGate(TGate.Settings(gated=0.5)), steps=4)
    for one in (handle, *inner):
        one.remove()
    assert len(crossed) == 2 * LAYERS
    frozen = [out.unflatten(0, (2, -1)).mean(0) for out in crossed[LAYERS:]]
    x, kwargs, out = said[2]
    assert torch.equal(out[:1], out[1:])  # guidance between equal halves gives that half
    with torch.no_grad(), backbone.at(Step(2, 4, 0.0)), backbone.advise("cross_attention", lambda c: frozen[c.layer]):
        alone = transformer(x[:1], **guidance.conditional(kwargs, 2))[0]
    assert torch.allclose(alone, out[:1], atol=1e-5)


def test_tgate_without_guidance_freezes_each_samples_own(model: Model) -> None:
    for batch in (1, 2, 3):
        with watched(model) as seen:
            together = draw(model, TGate(), guidance=1.0, batch=batch)
        assert seen["attn1", 0] == [(step, batch) for step in range(STEPS)]
        assert seen["attn2", 0] == [(step, batch) for step in range(4)]
        assert torch.allclose(together[:1], draw(model, TGate(), guidance=1.0), atol=1e-4)


def test_halves() -> None:
    x = torch.arange(4.0)[:, None]
    tree = ((x, None, torch.tensor(7.0)), {"a": {"b": x + 1, "c": "text"}, "t": torch.ones(1)})
    (x2, none, scalar), kwargs = guidance.conditional(tree, 4)
    assert x2.tolist() == [[2.0], [3.0]] and none is None and scalar == 7
    assert kwargs["a"]["b"].tolist() == [[3.0], [4.0]] and kwargs["a"]["c"] == "text" and len(kwargs["t"]) == 1
    assert guidance.twice((x2,))[0].tolist() == [[2.0], [3.0], [2.0], [3.0]]
    assert guidance.mean(x).tolist() == [[1.0], [2.0]]
    assert guidance.first(tree) is x and not guidance.guided(False, x) and guidance.guided(True, x)
    assert not guidance.guided(True, torch.ones(3, 3))
    with pytest.raises(UserError, match="both halves of guidance is unknown"):
        guidance.guided(None, x)


@pytest.mark.parametrize("method", ["tgate", "fastercache"])
def test_two_images_from_one_seed_are_no_halves(model: Model, method: str) -> None:
    """Without guidance, a batch of two prompts on the same noise has equal halves at its first step."""
    prompts = ["a large red plain circle top left", "a small blue striped star bottom right"]

    def drawn(some: list[str], scale: float) -> Tensor:
        return model.pipeline(
            some, num_inference_steps=STEPS, guidance_scale=scale, output_type="latent",
            generator=[torch.Generator().manual_seed(7) for _ in some], **model.call,
        ).images  # fmt: skip

    for scale in (1.0, 2.0):
        with harness.applied(model.pipeline, method):
            alone = torch.cat([drawn([one], scale) for one in prompts])
            assert torch.allclose(drawn(prompts, scale), alone, atol=1e-4)


def test_a_pipeline_that_hides_its_guidance_is_refused(model: Model) -> None:
    class Loop:
        scheduler = model.pipeline.scheduler

    with (
        pytest.raises(UserError, match="both halves of guidance is unknown"),
        track_sampler(model.backbone, Loop()),
        attached(model.backbone, TGate(), None),
    ):
        images(model)
    with pytest.raises(ValueError, match="without a tensor"):
        guidance.first(((), {}))
