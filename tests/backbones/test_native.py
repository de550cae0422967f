"""Inpainting with the pipelines of diffusers that inpaint natively, on tiny Stable Diffusion 3 and Flux pipelines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pipelines
import pytest
import test_flux
import test_sd3
import torch
from families import seeded
from PIL import Image
from test_pipelines import sana, sd3
from torch import Tensor

import harness
from harness import cli
from harness.backbones.following import track_sampler
from harness.errors import UserError
from harness.measure import flops
from harness.models import Model, load
from harness.models.inpainting import diffusers_inpaint
from harness.models.loading import wrap
from harness.spec import Call, Case, Step
from tasks.inpainting import Inpainting, InpaintingSettings
from tests.measure.hand_formulas_joint import flux_macs, sd3_macs

SIDE, TOKENS, STEPS = 64, 64, 3
TEXT = {"sd3": 32 + pipelines.TEXT_TOKENS, "flux": pipelines.TEXT_TOKENS}  # tokens; SD3 has CLIP's beside T5's
MAKE: dict[str, Callable[[], Any]] = {
    "sd3": lambda: pipelines.sd3(
        seeded(lambda: test_sd3.make(in_channels=16, out_channels=16, joint_attention_dim=96))
    ),
    "flux": lambda: pipelines.flux(seeded(lambda: test_flux.make(in_channels=64, joint_attention_dim=96))),
}
NAMES = list(MAKE)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pipelines of 64 x 64 pixels, 8 x 8 tokens, that paint the zoo's scenes."""
    root = tmp_path_factory.mktemp("native")
    call = {"height": SIDE, "width": SIDE, "max_sequence_length": pipelines.TEXT_TOKENS}
    notes = {"scenes": "shapes", "defaults": {"steps": STEPS, "guidance": 2.0}, "call": call}
    for name, make in MAKE.items():
        make().save_pretrained(root / name)
        (root / name / "harness.json").write_text(json.dumps(notes))
    return {name: root / name for name in MAKE}


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Model:
    return load(str(folders[request.param]))


def task(model: Model, strategy: str = "native", guidance: float = 2.0, **settings: object) -> Inpainting:
    chosen = InpaintingSettings.model_validate({"strategy": strategy, **settings})
    return Inpainting(model, steps=STEPS, guidance=guidance, settings=chosen)


def case(mask: Tensor, seed: int = 0, **data: Any) -> Case:
    image = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    return Case(0, pipelines.PROMPT, seed, {"image": image, "mask": mask, **data})


def box(top: int = 0, left: int = 0, side: int = SIDE) -> Tensor:
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[top : top + side, left : left + side] = True
    return mask


@pytest.mark.parametrize("strategy", ["native", "crop"])
def test_untouched_pixels_are_the_inputs_own(model: Model, strategy: str) -> None:
    here = task(model, strategy, mask_area=0.1)
    cases = here.cases(4)
    for image, one in zip(here.generate(cases), cases, strict=True):
        mask, own = one.data["mask"], one.data["image"]
        assert torch.equal(image[:, ~mask], own[:, ~mask]) and bool(image.isfinite().all())
        assert (image[:, mask] != own[:, mask]).float().mean() > 0.9


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_full_mask_is_text_to_image(model: Model, guidance: float) -> None:
    """From the same noise, which Flux takes packed: nothing of the image is known, and no step is left out."""
    here, one = task(model, guidance=guidance), case(box(), seed=3)
    made, pipeline = here.generate([one]), model.pipeline
    latents = torch.randn(1, 16, SIDE // 4, SIDE // 4, generator=torch.Generator().manual_seed(3))
    if pipeline.__class__.__name__ == "FluxPipeline":
        latents = pipeline._pack_latents(latents, 1, 16, SIDE // 4, SIDE // 4)
    theirs = pipeline(
        one.prompt, latents=latents, num_inference_steps=STEPS, guidance_scale=guidance, output_type="pt", **model.call
    ).images
    assert torch.allclose(made, theirs, atol=1e-5)


@pytest.mark.parametrize("strategy", ["native", "crop"])
def test_nothing_behind_the_mask_is_seen(model: Model, strategy: str) -> None:
    here, mask = task(model, strategy), box(18, 22, 15)
    one = case(mask)
    other = case(mask, image=torch.where(mask, 0.9, one.data["image"]))
    assert torch.equal(here.generate([one]), here.generate([other]))
    known = case(mask, image=torch.where(mask, one.data["image"], 0.9))
    assert not torch.equal(here.generate([one])[0, :, mask], here.generate([known])[0, :, mask])


def test_a_latent_is_generated_where_any_of_its_pixels_is(model: Model) -> None:
    here, mask = task(model), box(33, 46, 1)  # diffusers reads a latent's mask at its first pixel, (32, 44)
    made = [here.generate([case(mask, seed)])[0, :, mask] for seed in (0, 1)]
    assert not torch.equal(*made)


@pytest.mark.parametrize("strategy", ["native", "crop"])
def test_each_case_has_its_own_seed(model: Model, strategy: str) -> None:
    here = task(model, strategy)
    cases = [case(box(8, 8, 20), seed) for seed in (0, 1, 0)]
    before = torch.get_rng_state()
    together = here.generate(cases)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.allclose(together[0], together[2], atol=1e-4)  # rows of a batch may go through different kernels
    assert not torch.allclose(together[0], together[1], atol=1e-2)
    alone = torch.cat([here.generate([one]) for one in cases])
    assert torch.allclose(together, alone, atol=1e-4)


def test_an_empty_mask_is_the_image_at_no_cost(model: Model) -> None:
    here, calls = task(model), []
    empty, other = case(torch.zeros(SIDE, SIDE, dtype=torch.bool)), case(box(8, 8, 20))
    handle = model.backbone.transformer.register_forward_pre_hook(lambda *_: calls.append(0))
    try:
        assert torch.equal(here.generate([empty])[0], empty.data["image"]) and not calls
        made = here.generate([empty, other])
    finally:
        handle.remove()
    assert torch.equal(made[0], empty.data["image"]) and len(calls) == STEPS
    assert here.tokens(empty) == 0 and "1 with an empty mask" in here.facts([empty, other])["tokens"].convention


def test_the_parts_are_shared_as_they_are(model: Model) -> None:
    pipeline = model.pipeline
    pipeline.transformer.to(torch.bfloat16)
    inpaint = diffusers_inpaint.inpainting(pipeline)
    assert all(inpaint.components[name] is part for name, part in pipeline.components.items())
    assert pipeline.transformer.dtype == torch.bfloat16
    assert bool(diffusers_inpaint.inpainting(pipeline).progress_bar(range(0)).disable)


def test_half_precision_and_a_denoiser_that_was_exchanged(model: Model, folders: dict[str, Path]) -> None:
    half = load(model.name, dtype="bfloat16")
    here, one = task(half), case(box(8, 8, 20))
    made = here.generate([one])
    own = half.pipeline.transformer
    half.pipeline.transformer = seeded(lambda: type(own).from_config(own.config).to(torch.bfloat16))
    other = here.generate([one])
    half.pipeline.transformer = own
    assert made.isfinite().all() and not torch.equal(made, other) and torch.equal(here.generate([one]), made)


def test_the_clock_follows_the_sampler(model: Model) -> None:
    here, backbone = task(model), model.backbone
    seen: list[Step] = []

    def spy(call: Call) -> Tensor:
        seen.append(call.step)
        assert call.grid.tokens == call.x.shape[1] == TOKENS
        return call.run(call.x)

    with track_sampler(backbone, model.pipeline, guided=True), backbone.advise("block", spy, [0]):
        here.generate([case(box(8, 8, 20))])
        assert backbone.guided is (model.kind != "FluxPipeline")
        timesteps = model.pipeline.scheduler.timesteps.tolist()
    assert [step.index for step in seen] == list(range(STEPS)) and {step.count for step in seen} == {STEPS}
    assert [step.timestep for step in seen] == pytest.approx(timesteps)


@pytest.mark.parametrize("name", NAMES)
def test_methods_and_costs(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    table = harness.run(
        ["random", "tome", "fewer-steps"], task="inpainting", model=str(folders[name]), cases=2, rounds=2,
        ratios=[0.3], task_settings={"strategy": "native", "mask_area": 0.06}, metrics=["paired"], out=tmp_path,
    )  # fmt: skip
    assert {(r.outcome, r.reason) for r in table.records} == {("ok", "")} and len(table.records) == 4
    frame = table.frame.set_index("method")
    assert set(frame["strategy"]) == {"native"} and set(frame["tokens"]) == {TOKENS}
    costs = frame["gmacs"]
    dense = costs["dense"]
    assert costs[["random", "tome", "fewer-steps"]].max() < dense
    # per asked step: fewer steps of the same cost
    assert costs["fewer-steps"] == pytest.approx(dense * 2 / STEPS)

    model = load(str(folders[name]))
    config = model.backbone.transformer.config
    by_hand = {
        "sd3": lambda: 2 * sd3_macs(config, None, TEXT["sd3"], SIDE // 4),
        "flux": lambda: flux_macs(config, None, TEXT["flux"], TOKENS),
    }[name]()
    assert dense == pytest.approx(1e-9 * by_hand)

    def draw() -> None:
        pipelines.draw(model.pipeline, steps=STEPS, guidance=2.0, **model.call)

    assert dense == pytest.approx(flops.count(model.backbone.transformer, draw, images=1).gmacs)


def test_users_own_images_and_the_default_sweep(folders: dict[str, Path], tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for i, mask in enumerate((box(8, 8, 20), box(), torch.zeros(SIDE, SIDE, dtype=torch.bool))):
        pixels = np.random.default_rng(i).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(own / f"{i}.png")
        Image.fromarray(mask.numpy().astype(np.uint8) * 255).save(own / f"{i}_mask.png")
        (own / f"{i}.txt").write_text(pipelines.PROMPT)
    table = harness.run(
        ["tome"], task="inpainting", model=str(folders["sd3"]), cases=3, rounds=2, ratios=[0.3], data=own,
        metrics=["paired"], out=tmp_path / "run",
    )  # fmt: skip
    ran = [(r.task_settings["strategy"], r.method, r.outcome) for r in table.records]
    assert sorted(ran) == [("crop", "dense", "ok"), ("crop", "tome", "ok"), ("native", "dense", "ok")]
    costs = {(r.task_settings["strategy"], r.method): r.estimates["gmacs"].value for r in table.records}
    assert costs["crop", "tome"] < costs["crop", "dense"] < costs["native", "dense"]
    for record in table.records:
        assert "1 with an empty mask" in record.estimates["tokens"].convention
        images = [np.asarray(Image.open(tmp_path / "run" / name)) for name in record.images]
        inputs = [np.asarray(Image.open(own / f"{i}.png")) for i in range(3)]
        assert np.array_equal(images[2], inputs[2]) and not np.array_equal(images[1], inputs[1])
        assert np.array_equal(images[0][:8], inputs[0][:8])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--task-set", "strategy=whole"], "cannot inpaint with strategy 'whole'; it can: native, crop"),
        (["--task-set", "strategy=lazy"], "cannot inpaint with strategy 'lazy'; it can: native, crop"),
        (["--task-set", "strategy=native", "--task-set", "encoder_ratio=0.5"], "has no image encoder"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str], said: str, folders: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    given = ["--task", "inpainting", "--model", str(folders["sd3"]), "--methods", "tome", *arguments]
    monkeypatch.setattr(sys, "argv", ["harness", "run", *given])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    error = capsys.readouterr().err.strip().splitlines()
    assert caught.value.code == 2 and len(error) == 1 and said in error[0]
    assert not list(tmp_path.iterdir())


def test_models_that_cannot_inpaint(tmp_path: Path, folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="cannot inpaint, as SanaPipeline; those that can: FluxPipeline, LazyInpaint"):
        Inpainting.swept(wrap("mine", sana()), own=True)
    few = wrap("mine", sd3())
    with pytest.raises(UserError, match="latents of 16 channels, and this model's VAE has 4: it cannot inpaint"):
        task(few).cases(1, None, tmp_path)
    long = load(str(folders["flux"]))
    long.call["width"] = 2 * SIDE
    with pytest.raises(UserError, match=r"takes square images, and .* makes 64 x 128"):
        task(long).cases(1, None, tmp_path)


def test_an_argument_of_text_to_image_alone_is_named(model: Model) -> None:
    call = {"skip_guidance_layers": [1], "prompt_embeds": torch.zeros(1, 4, 8)}
    known, hidden = torch.zeros(1, 3, SIDE, SIDE), torch.ones(1, SIDE, SIDE, dtype=torch.bool)
    with pytest.raises(UserError, match="InpaintPipeline takes no skip_guidance_layers, which the model's call has"):
        diffusers_inpaint.fill(model.pipeline, known, hidden, torch.zeros(1, 16, SIDE // 8, SIDE // 8), **call)
