"""Each call's own timestep tells the step: exchanged schedulers, starts in the middle, several calls in one step."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pipelines
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchHeunDiscreteScheduler,
    StableDiffusion3Img2ImgPipeline,
)
from families import seeded
from test_flux import make as make_flux
from test_sd3 import make as make_sd3
from torch import Tensor

import harness
from harness.backbones import sampler_clock
from harness.backbones.flux import Flux
from harness.backbones.following import track_sampler
from harness.backbones.sd3 import SD3
from harness.errors import UserError
from harness.models import Model
from harness.spec import Step

STEPS = 6
TRUE_CFG = {"negative_prompt": "a small blue striped star", "true_cfg_scale": 3.0}
SKIP = {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.1, "skip_layer_guidance_stop": 0.6}


EITHER = pytest.mark.usefixtures("reading")


@pytest.fixture(params=["at once", "one call later"])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether timesteps are waited for: those on a GPU are not."""
    if request.param == "one call later":
        monkeypatch.setattr(sampler_clock, "_takes_waiting", lambda timestep: isinstance(timestep, Tensor))


def flux() -> Any:
    return pipelines.flux(seeded(lambda: make_flux(joint_attention_dim=96)))


def sd3() -> Any:
    return pipelines.sd3(seeded(lambda: make_sd3(joint_attention_dim=96)))


def draw(pipeline: Any, **more: Any) -> Tensor:
    return torch.as_tensor(pipelines.draw(pipeline, steps=STEPS, output_type="latent", **more))


def pixart(model: Model, seed: int = 0, steps: int = STEPS) -> Tensor:
    return model.pipeline(
        "a red circle", num_inference_steps=steps, guidance_scale=2.0, output_type="latent",
        generator=torch.Generator().manual_seed(seed), **model.call,
    ).images  # fmt: skip


def seen_by(backbone: Any, pipeline: Any, run: Callable[[], object]) -> list[Step]:
    steps: list[Step] = []
    with track_sampler(backbone, pipeline), backbone.on_step(steps.append):
        run()
    return steps


def places(steps: list[Step]) -> list[tuple[int, int]]:
    return [(step.index, step.branch) for step in steps]


# -- what the clock says -------------------------------------------------------------------------------------------


@EITHER
def test_true_cfg_is_two_branches_of_each_step() -> None:
    pipeline = flux()
    steps = seen_by(Flux(pipeline.transformer), pipeline, lambda: draw(pipeline, **TRUE_CFG))
    assert places(steps) == [(index, branch) for index in range(STEPS) for branch in (0, 1)]
    assert [step.timestep for step in steps[::2]] == pytest.approx(pipeline.scheduler.timesteps.tolist())


@EITHER
def test_skip_layer_guidance_is_a_branch_of_some_steps() -> None:
    pipeline = sd3()
    steps = seen_by(SD3(pipeline.transformer), pipeline, lambda: draw(pipeline, **SKIP))
    assert places(steps) == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1), (4, 0), (5, 0)]


@EITHER
def test_a_start_in_the_middle() -> None:
    pipeline = sd3()
    backbone = SD3(pipeline.transformer)
    steps = seen_by(backbone, pipeline, lambda: to_image(pipeline))
    assert places(steps) == [(3, 0), (4, 0), (5, 0)] and backbone.start == 3
    assert [step.timestep for step in steps] == pytest.approx(pipeline.scheduler.timesteps.tolist()[3:])


@EITHER
def test_half_precision_timesteps_and_two_evaluations_of_one() -> None:
    """Flux rounds its timesteps to bfloat16 twice, and 60 are nearer than that; Heun's method visits each one twice."""
    pipeline = flux().to(torch.bfloat16)
    run = lambda: pipelines.draw(pipeline, steps=60, output_type="latent")  # noqa: E731
    assert places(seen_by(Flux(pipeline.transformer), pipeline, run)) == [(index, 0) for index in range(60)]
    heun = sd3()
    heun.scheduler = FlowMatchHeunDiscreteScheduler()
    steps = seen_by(SD3(heun.transformer), heun, lambda: draw(heun))
    assert places(steps) == [(index, 0) for index in range(2 * STEPS - 1)] and steps[1].timestep == steps[2].timestep


def test_timesteps_of_somebody_else_are_refused_in_a_sentence(model: Model) -> None:
    harness.apply(model.pipeline, "tome", ratio=0.3)
    try:
        pixart(model)
        transformer = model.pipeline.transformer
        with pytest.raises(UserError, match=r"timestep 123\.4, which is none of the 6 that the pipeline's sampler has"):
            transformer(torch.zeros(2, 6, 16, 16), torch.zeros(2, 8, 96), timestep=torch.tensor([123.4, 123.4]))
    finally:
        harness.remove(model.pipeline)


@EITHER
def test_the_same_timesteps_again_are_another_image(model: Model) -> None:
    """A loop of one's own that sets the timesteps once, before the method is applied, for two images."""
    pipeline, resets = model.pipeline, []
    scheduler, x, text = pipeline.scheduler, torch.randn(1, 6, 16, 16), torch.randn(1, 8, 96)
    scheduler.set_timesteps(3)

    def loop() -> None:
        now = x
        for t in scheduler.timesteps:
            size = {"resolution": None, "aspect_ratio": None}
            out = pipeline.transformer(now, text, timestep=t[None], added_cond_kwargs=size).sample[:, :6]
            now = scheduler.step(out, t, now).prev_sample

    with torch.no_grad(), model.backbone.on_begin(lambda: resets.append(1)):
        steps = seen_by(model.backbone, pipeline, lambda: (loop(), setattr(scheduler, "_step_index", None), loop()))
    assert places(steps) == [(0, 0), (1, 0), (2, 0)] * 2 and len(resets) == 2


# -- what methods make of it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "settings"),
    [("fbcache", {"threshold": 0.3}), ("pab", {}), ("taylorseer", {}), ("fastercache", {}), ("tgate", {}),
     ("at-edm", {"ratio": 0.1})],
)  # fmt: skip
def test_a_scheduler_exchanged_after_apply(model: Model, method: str, settings: dict[str, Any]) -> None:
    pipeline = model.pipeline
    first, second = (
        pipeline.scheduler,
        DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, solver_order=1),
    )
    pipeline.scheduler = second
    with harness.applied(pipeline, method, **settings):
        wanted = pixart(model, 1)
    dense = pixart(model, 1)
    pipeline.scheduler = first
    with harness.applied(pipeline, method, **settings):
        pixart(model)
        pipeline.scheduler = second
        assert torch.equal(pixart(model, 1), wanted) and not torch.equal(wanted, dense)
    assert torch.equal(pixart(model, 1), dense)
    assert not {"set_timesteps", "step"} & {*vars(first), *vars(second)} and "encode_prompt" not in vars(pipeline)


def test_steps_that_could_not_be_reduced_are_refused_once(model: Model) -> None:
    pipeline = model.pipeline
    with harness.applied(pipeline, "fewer-steps", spared=0.5):
        fewer = pixart(model)
        pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
        with pytest.raises(UserError, match="set before they could be reduced, .*: call the pipeline once more"):
            pixart(model)
        assert torch.equal(pixart(model), fewer)
    assert torch.equal(pixart(model, steps=3), fewer)


def test_two_calls_a_step_under_a_token_method() -> None:
    pipeline = flux()
    plain = draw(pipeline, **TRUE_CFG)
    with harness.applied(pipeline, "tome", ratio=0.3, around="self_attention", last_steps=0.0, first_steps=0.5):
        merged = draw(pipeline, **TRUE_CFG)
    assert not torch.equal(merged, plain) and torch.equal(draw(pipeline, **TRUE_CFG), plain)


def to_image(pipeline: Any, strength: float = 0.5) -> Tensor:
    """An image from an image, at this strength, with the pipeline's parts."""
    made = StableDiffusion3Img2ImgPipeline(**pipeline.components)
    made.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, 40, 56, generator=torch.Generator().manual_seed(5))
    return made(
        pipelines.PROMPT, image=image, strength=strength, num_inference_steps=STEPS, guidance_scale=3.5,
        generator=torch.Generator().manual_seed(0), output_type="latent", max_sequence_length=pipelines.TEXT_TOKENS,
        height=40, width=56,
    ).images[0]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "settings"), [("pab", {"below": 1001}), ("taylorseer", {}), ("fbcache", {"threshold": 1})]
)
def test_caches_at_strength_below_1(method: str, settings: dict[str, Any]) -> None:
    """No silent no-op, nothing extrapolated from nothing, and the first step is dense."""
    pipeline = sd3()
    dense, runs = to_image(pipeline), []
    handle = pipeline.transformer.transformer_blocks[1].attn.to_q.register_forward_hook(lambda *_: runs.append(1))
    with harness.applied(pipeline, method, **settings):
        cached = to_image(pipeline)
    handle.remove()
    assert torch.isfinite(cached).all() and not torch.equal(cached, dense) and 0 < len(runs) < 3
    assert torch.equal(to_image(pipeline), dense)


def test_fewer_steps_at_strength_below_1_are_refused() -> None:
    pipeline = sd3()
    refused = pytest.raises(UserError, match="starts in the middle of its steps .*ask the pipeline for fewer steps")
    with harness.applied(pipeline, "fewer-steps", spared=0.5), refused:
        to_image(pipeline)


def test_a_sweep_with_skip_layer_guidance(tmp_path: Path) -> None:
    """Tokens go on; a cache that would mix the calls fails its point with the reason, and the sweep goes on."""
    folder = tmp_path / "sd3"
    sd3().save_pretrained(folder)
    call = {**pipelines.PIXELS, "max_sequence_length": pipelines.TEXT_TOKENS, **SKIP}
    (folder / "harness.json").write_text(json.dumps({"defaults": {"steps": STEPS, "guidance": 3.0}, "call": call}))
    (tmp_path / "p.txt").write_text("a red circle\na blue star\n")
    table = harness.run(
        "random,pab", model=str(folder), prompts=tmp_path / "p.txt", cases=2, rounds=2, ratios=[0.3],
        out=tmp_path / "run", metrics="paired",
    )  # fmt: skip
    outcome = {r.method: (r.outcome, r.reason) for r in table.records}
    assert outcome["dense"] == outcome["random"] == ("ok", "")
    assert outcome["pab"][0] == "failed" and "more than once in a step" in outcome["pab"][1]


def test_a_jump_that_was_not_waited_for_is_refused_one_call_later(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, given = model.backbone, model.backbone.inputs(1, text_tokens=8)

    def calls(*timesteps: float) -> list[int]:
        steps: list[Step] = []
        backbone.begin([900.0, 700.0, 500.0, 300.0])
        with torch.no_grad(), backbone.on_step(steps.append):
            for timestep in timesteps:
                backbone.transformer(**(given | {"timestep": torch.tensor([timestep])}))
                backbone.stepped()
        return [step.index for step in steps]

    assert calls(900, 700, 300) == [0, 1, 3]
    monkeypatch.setattr(sampler_clock, "_takes_waiting", lambda timestep: isinstance(timestep, Tensor))
    assert calls(900, 700, 500, 300, 900) == [0, 1, 2, 3, 0]
    with pytest.raises(UserError, match="jumped from step 2 of 4 to timestep 300, which is not that of the next step"):
        calls(900, 700, 300, 300)
    assert calls(900, 700) == [0, 1]  # and is not held against the next image
    with pytest.raises(UserError, match="jumped"), backbone.to_its_end():
        calls(900, 300)  # the last call
    assert calls(900, 700, 500, 300) == [0, 1, 2, 3]
    with pytest.raises(ZeroDivisionError), backbone.to_its_end():
        calls(900, 300)
        raise ZeroDivisionError  # what failed anyway says why itself
    assert calls(900, 300) == [0, 1]
    with pytest.raises(UserError, match="jumped"):
        backbone.begin([900.0, 700.0])
    assert backbone.step.count == 2 and backbone.step.index == -1  # it has begun all the same
