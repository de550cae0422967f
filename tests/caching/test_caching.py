"""Each cache by itself, by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from caches import LAYERS, STEPS, TOKENS, WIDTH, clean, draw, gmacs, images, steps_of, watched
from pydantic import ValidationError
from test_rivals import fitted
from torch import Tensor

from harness.attach import attached
from harness.backbones.following import track_sampler
from harness.models import Model
from harness.spec import Call, Step
from harness.zoo.shapes import networks
from methods.caching import PAB, FasterCache, FBCache, MagCache, TaylorSeer
from methods.dense import Dense
from tests.measure.hand_formulas_pixart import block_macs


def test_fbcache_runs_the_first_block_always_and_the_others_once(model: Model) -> None:
    ran = steps_of(model, FBCache(FBCache.Settings(threshold=1)))
    for part in ("attn1", "attn2", "ff"):
        assert ran[part, 0] == list(range(STEPS)) and ran[part, 1] == ran[part, 2] == [0]
    first, *rest = gmacs(model, FBCache(FBCache.Settings(threshold=1)))
    block = 2 * block_macs(TOKENS, WIDTH, networks.TEXT_TOKENS).total / 1e9
    assert [first - one for one in rest] == pytest.approx([(LAYERS - 1) * block] * (STEPS - 1))


def test_fbcache_decides_on_the_first_blocks_change(model: Model) -> None:
    """A threshold between the first two steps' changes skips one and not the other."""
    updates: list[Tensor] = []

    def spy(call: Call) -> Tensor:
        out = call.run(call.x)
        updates.append(out - call.x)
        return out

    with track_sampler(model.backbone, model.pipeline), model.backbone.advise("block", spy, [0]):
        images(model)
    changes = [float((b - a).abs().mean() / a.abs().mean()) for a, b in zip(updates, updates[1:], strict=False)]
    between = (changes[0] + changes[1]) / 2
    assert changes[0] < changes[1]  # of this model
    assert steps_of(model, FBCache(FBCache.Settings(threshold=between)))["ff", 1][:2] == [0, 2]
    assert steps_of(model, FBCache(FBCache.Settings(threshold=0.9 * min(changes))))["ff", 1] == list(range(STEPS))


def test_pab_computes_every_other_step_within_its_range(model: Model) -> None:
    ran = steps_of(model, PAB(PAB.Settings(skip=2, cross=2)))
    for layer in range(LAYERS):
        assert ran["ff", layer] == list(range(STEPS))
        assert ran["attn1", layer] == [0, 1, 2, 4, 6]  # the first two are above 800
        assert ran["attn2", layer] == [0, 1, 4]
    ran = steps_of(model, PAB(PAB.Settings(skip=3, cross=1, above=-1, below=1001)))
    assert ran["attn1", 0] == ran["attn2", 0] == [0, 3, 6]
    with pytest.raises(ValidationError, match="the range of timesteps is empty"):
        PAB.Settings(above=500, below=400)


def test_pab_gives_the_last_computed_output(model: Model) -> None:
    outs: list[Tensor] = []
    handle = model.backbone.blocks[1].attn1.register_forward_hook(lambda _m, _args, out: outs.append(out))
    draw(model, PAB(PAB.Settings(skip=2, above=-1, below=1001)))
    handle.remove()
    assert [torch.equal(a, b) for a, b in zip(outs, outs[1:], strict=False)] == [True, False] * 3 + [True]


def test_taylorseer_interval(model: Model) -> None:
    """The authors' schedule: all of the warm-up, then every interval-th step from its last one on."""
    ran = steps_of(model, TaylorSeer(TaylorSeer.Settings(interval=2, predicted=1 - 3 / STEPS)))
    assert all(steps == [0, 1, 2, 4, 6] for steps in ran.values()) and len(ran) == 9
    ran = steps_of(model, TaylorSeer(TaylorSeer.Settings(interval=3, predicted=1 - 2 / STEPS)))
    assert all(steps == [0, 1, 4, 7] for steps in ran.values())
    ran = steps_of(model, TaylorSeer(TaylorSeer.Settings(interval=5, predicted=0.95)))
    assert all(steps == [0, 5] for steps in ran.values())


def test_taylorseer_extrapolates_linearly_or_repeats(model: Model) -> None:
    for order in (0, 1):
        outs: list[Tensor] = []
        handle = model.backbone.blocks[1].ff.register_forward_hook(lambda _m, _args, out, outs=outs: outs.append(out))
        draw(model, TaylorSeer(TaylorSeer.Settings(interval=3, predicted=1 - 2 / STEPS, order=order)))
        handle.remove()
        for ahead in (1, 2):
            assert torch.allclose(outs[1 + ahead], outs[1] + ahead * order * (outs[1] - outs[0]), atol=1e-5)
        slope = order * (outs[4] - outs[1]) / 3
        for ahead in (1, 2):
            assert torch.allclose(outs[4 + ahead], outs[4] + ahead * slope, atol=1e-5)


def test_fastercache_halves_the_batch_and_skips_attention(model: Model) -> None:
    with watched(model) as seen:
        draw(model, FasterCache(), batch=2)
    # below 641 both halves run at every fifth step, and self-attention at every other of those with one half
    both = [step not in (3, 4, 6, 7) for step in range(STEPS)]
    for layer in range(LAYERS):
        assert seen["ff", layer] == seen["attn2", layer] == [(i, 4 if both[i] else 2) for i in range(STEPS)]
        assert seen["attn1", layer] == [(i, 4 if both[i] else 2) for i in range(STEPS) if i not in (3, 7)]


def test_fastercache_costs_less_the_more_steps_reuse(model: Model) -> None:
    """Step by step, from dense's on: a budget can be met."""
    shares = [share / STEPS for share in range(STEPS + 1)]
    costs = [sum(gmacs(model, FasterCache(FasterCache.Settings(reusing=share)))) for share in shares]
    assert costs[0] == sum(gmacs(model, Dense())) and costs[-1] == sum(gmacs(model, FasterCache()))
    assert costs == sorted(costs, reverse=True) and len(set(costs)) >= 4


def test_fastercache_without_guidance_is_attention_reuse(model: Model) -> None:
    ran = steps_of(model, FasterCache(), guidance=1.0, batch=3)
    assert ran["attn1", 1] == [0, 1, 2, 4, 6] and ran["attn2", 1] == ran["ff", 1] == list(range(STEPS))
    ran = steps_of(model, FasterCache(FasterCache.Settings(below=1001)), guidance=1.0)
    assert ran["attn1", 1] == [0, 2, 4, 6]


def test_fastercache_extrapolates_with_a_growing_weight(model: Model) -> None:
    outs: list[Tensor] = []
    handle = model.backbone.blocks[1].attn1.register_forward_hook(lambda _m, _args, out: outs.append(out))
    draw(model, FasterCache(FasterCache.Settings(weight=0.7)), guidance=1.0)
    handle.remove()
    for step in (3, 5, 7):
        guess = outs[step - 1] + 0.7 * step / 7 * (outs[step - 1] - outs[step - 2])
        assert torch.allclose(outs[step], guess, atol=1e-5)


def test_fastercache_halves_what_diffusers_does_not_know(model: Model) -> None:
    """Resolutions, as PixArt-alpha gets them, and masks that are None, go through, too."""
    transformer, shapes = model.backbone.transformer, []

    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        shapes.append((len(args[0]), len(kwargs["added_cond_kwargs"]["resolution"]), kwargs.get("attention_mask")))
        return forward(*args, **kwargs)

    x, text = torch.randn(1, 6, 16, 16).repeat(2, 1, 1, 1), torch.randn(2, 8, 96)
    with torch.no_grad(), model.backbone.around(around), attached(model.backbone, FasterCache(), None):
        model.backbone.begin([600.0, 500.0])
        model.backbone.guided = True
        for now in (600, 500):
            (out,) = transformer(
                x, encoder_hidden_states=text, timestep=torch.tensor([now, now]), attention_mask=None,
                added_cond_kwargs={"resolution": torch.ones(2, 2), "aspect_ratio": None}, return_dict=False,
            )  # fmt: skip
    assert out.shape == x.shape and shapes == [(2, 2, None), (1, 1, None)]


def test_magcache_skips_while_the_error_is_small(model: Model) -> None:
    # Ratios of 0.9: errors of 0.1, 0.1 + 0.19, 0.29 + 0.271 after one, two and three skipped steps.
    def ran(**settings: Any) -> list[int]:
        found = steps_of(model, MagCache(MagCache.Settings(retention=0.25, **settings)))
        assert len({tuple(steps) for steps in found.values()}) == 1  # all blocks together
        return found["ff", 0]

    assert ran(threshold=0.09) == list(range(STEPS))
    assert ran(threshold=0.12) == [0, 1, 3, 5, 7]
    assert ran(threshold=0.3) == [0, 1, 4, 7]
    assert ran(threshold=0.6) == [0, 1, 5]
    assert ran(threshold=0.6, max_skip=2) == [0, 1, 4, 7]


def test_magcache_calibrates_the_ratio_of_updates(model: Model) -> None:
    """Of blocks that add a known constant at each step."""
    fitting = MagCache().fitting(model.backbone, 4)
    scales = [4.0, 2.0, 3.0, 1.5]
    asked: list[tuple[bool, int | None]] = []

    def block(_self: Any, x: Tensor, **_given: Any) -> Tensor:
        return x + scales[model.backbone.step.index]

    def watch(each: Any = None, *, full_trajectory: bool = False, batches: int | None = None) -> None:
        asked.append((full_trajectory, batches))
        for batch in (1, 3):
            for index in range(4):
                with torch.no_grad(), model.backbone.at(Step(index, 4, 500.0)):
                    model.backbone.transformer(
                        torch.randn(batch, 6, 16, 16), encoder_hidden_states=torch.randn(batch, 8, 96),
                        timestep=torch.full((batch,), 500),
                        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
                    )  # fmt: skip

    assert fitting.calibrate is not None and not fitting.trains
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model.backbone.blocks[0]), "forward", block)
        fitting.calibrate(watch)
    state = fitting.state()
    assert torch.allclose(state.tensors["mag_ratios"], torch.tensor([1.0, 0.5, 1.5, 0.5]), atol=1e-5)
    assert asked == [(True, 8)] and state.facts == {"steps": 4, "samples": 4}
    assert MagCache().adapter() == "magcache" and clean(model)


def test_magcache_is_fitted_and_runs(model: Model, tmp_path: Path) -> None:
    method = MagCache(MagCache.Settings(threshold=1))
    state = fitted(model, method, tmp_path)
    ratios = state.tensors["mag_ratios"]
    assert ratios.shape == (4,) and ratios[0] == 1 and (ratios > 0.1).all() and (ratios[1:] != 1).all()
    before = draw(model)
    with track_sampler(model.backbone, model.pipeline), attached(model.backbone, method, state), watched(model) as seen:
        images(model)  # other steps than it was calibrated for
    assert 0 < len(seen["ff", 0]) < STEPS and torch.equal(draw(model), before)
