"""Caches across sampling steps: what runs when, counted by hand, and what is left behind afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import PyramidAttentionBroadcastConfig, apply_pyramid_attention_broadcast
from pydantic import ValidationError
from test_rivals import fitted
from torch import Tensor

import harness
from harness import guidance
from harness.attach import attached
from harness.backbones.following import track_sampler
from harness.errors import UserError
from harness.measure import flops
from harness.method import Method
from harness.models import Model, load
from harness.spec import Call, State, Step
from harness.zoo.shapes import networks
from methods.caching import PAB, FasterCache, FBCache, MagCache, TaylorSeer
from methods.tgate import TGate, gated_steps
from tests.measure.hand_formulas_pixart import block_macs

LAYERS, WIDTH, TOKENS, STEPS = 3, 32, 256, 8  # timesteps 999, 874, 749, 624, 499, 374, 249, 124
RATIOS = State({"mag_ratios": torch.tensor([1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9])})
ALL: list[Method] = [
    FBCache(),
    PAB(),
    TaylorSeer(),
    FasterCache(),
    MagCache(MagCache.Settings(threshold=0.12)),
    TGate(),
]
IDENTITY: list[Method] = [
    FBCache(FBCache.Settings(threshold=0)),
    PAB(PAB.Settings(skip=1)),
    TaylorSeer(TaylorSeer.Settings(interval=1)),
    FasterCache(FasterCache.Settings(skip=1)),
    MagCache(MagCache.Settings(threshold=0)),
    TGate(TGate.Settings(gated=0)),
]


def name_of(method: Method) -> str:
    return method.name


def state_of(method: Method) -> State | None:
    return RATIOS if method.needs_state else None


def images(model: Model, steps: int = STEPS, seed: int = 0, batch: int = 1, guidance: float = 2.0) -> Tensor:
    prompts = ["a large red plain circle top left", "on a pink plain background", "small blue star"]
    return model.pipeline(
        prompts[seed % 3 : seed % 3 + batch],
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed + i) for i in range(batch)],
        output_type="latent",
        **model.call,
    ).images


def draw(model: Model, method: Method | None = None, guided: bool | None = None, **how: Any) -> Tensor:
    with track_sampler(model.backbone, model.pipeline, guided):
        if method is None:
            return images(model, **how)
        with attached(model.backbone, method, state_of(method)):
            return images(model, **how)


@contextmanager
def watched(model: Model) -> Iterator[dict[tuple[str, int], list[tuple[int, int]]]]:
    """(part, layer) -> (step, batch) of each of its runs, seen by a linear layer inside."""
    seen: dict[tuple[str, int], list[tuple[int, int]]] = {
        (part, layer): [] for part in ("attn1", "attn2", "ff") for layer in range(LAYERS)
    }
    handles = []
    for (part, layer), runs in seen.items():
        linear = model.backbone.blocks[layer].get_submodule("ff.net.2" if part == "ff" else f"{part}.to_q")
        handles.append(
            linear.register_forward_pre_hook(
                lambda _m, args, runs=runs: runs.append((model.backbone.step.index, len(args[0])))
            )
        )
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def steps_of(model: Model, method: Method, **how: Any) -> dict[tuple[str, int], list[int]]:
    with watched(model) as seen:
        draw(model, method, **how)
    return {key: [step for step, _ in runs] for key, runs in seen.items()}


def clean(model: Model) -> bool:
    return not any(
        "forward" in vars(module) or "_diffusers_hook" in vars(module) or module._forward_pre_hooks
        for module in model.backbone.transformer.modules()
    )


def gmacs(model: Model, method: Method, **how: Any) -> tuple[float, ...]:
    return flops.count(model.backbone.transformer, lambda: draw(model, method, **how), images=1).per_call


# -- for all of them ---------------------------------------------------------------------------------------------


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


# -- each of them ------------------------------------------------------------------------------------------------


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
    """After the warm-up one step is predicted, and then diffusers computes at every interval-th step."""
    ran = steps_of(model, TaylorSeer(TaylorSeer.Settings(interval=2, predicted=1 - 3 / STEPS)))
    assert all(steps == [0, 1, 2, 4, 6] for steps in ran.values()) and len(ran) == 9
    ran = steps_of(model, TaylorSeer(TaylorSeer.Settings(interval=3, predicted=1 - 2 / STEPS)))
    assert all(steps == [0, 1, 3, 6] for steps in ran.values())


def test_taylorseer_extrapolates_linearly_or_repeats(model: Model) -> None:
    for order in (0, 1):
        outs: list[Tensor] = []
        handle = model.backbone.blocks[1].ff.register_forward_hook(lambda _m, _args, out, outs=outs: outs.append(out))
        draw(model, TaylorSeer(TaylorSeer.Settings(interval=3, predicted=1 - 2 / STEPS, order=order)))
        handle.remove()
        assert torch.allclose(outs[2], outs[1] + order * (outs[1] - outs[0]), atol=1e-5)
        slope = order * (outs[3] - outs[1]) / 2
        assert torch.allclose(outs[4], outs[3] + slope, atol=1e-5)
        assert torch.allclose(outs[5], outs[3] + 2 * slope, atol=1e-5)


def test_fastercache_halves_the_batch_and_skips_attention(model: Model) -> None:
    with watched(model) as seen:
        draw(model, FasterCache(), batch=2)
    # below 641 both halves run at every fifth step, and self-attention at every other of those with one half
    both = [step not in (3, 4, 6, 7) for step in range(STEPS)]
    for layer in range(LAYERS):
        assert seen["ff", layer] == seen["attn2", layer] == [(i, 4 if both[i] else 2) for i in range(STEPS)]
        assert seen["attn1", layer] == [(i, 4 if both[i] else 2) for i in range(STEPS) if i not in (3, 7)]


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
