"""Pipelines of every family, as folders: sweeps, prompts, fits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pipelines
import pytest
import torch
from accelerate import Accelerator
from diffusers import (
    AutoencoderDC,
    DDIMScheduler,
    DDPMScheduler,
    DiTPipeline,
    DPMSolverMultistepScheduler,
    FluxTransformer2DModel,
    HeunDiscreteScheduler,
    SanaPipeline,
    SD3Transformer2DModel,
)
from test_dit import make as make_dit
from test_sana import make as make_sana
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from transformers import Gemma2Config, Gemma2Model

import harness
from harness import checkpoints, registry
from harness.config import MethodSpec, settings_of
from harness.errors import UserError
from harness.fitting import fit
from harness.fitting.data import data_for
from harness.fitting.options import FitOptions
from harness.models import Model, load, prompting
from harness.models.inpainting import latent_blending
from harness.training.batches import no_text
from harness.zoo.shapes import networks, scene

CAPTIONS = scene.sample("train", range(3)).captions()


def sd3() -> Any:
    return pipelines.sd3(
        SD3Transformer2DModel(
            sample_size=16, in_channels=4, out_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=16,
            joint_attention_dim=96, caption_projection_dim=32, pooled_projection_dim=20, pos_embed_max_size=16,
        )
    )  # fmt: skip


def flux() -> Any:
    return pipelines.flux(
        FluxTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=2, num_attention_heads=2, attention_head_dim=16,
            joint_attention_dim=96, pooled_projection_dim=20, guidance_embeds=True, axes_dims_rope=(4, 6, 6),
        )
    )  # fmt: skip


def sana() -> Any:
    text = Gemma2Config(
        vocab_size=len(scene.vocabulary()) + 3, hidden_size=24, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=12, pad_token_id=0, bos_token_id=2, eos_token_id=1,
    )  # fmt: skip
    vae = AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)), downsample_block_type="conv",
        upsample_block_type="interpolate", decoder_norm_types="rms_norm", decoder_act_fns="silu", scaling_factor=0.4,
    )  # fmt: skip
    sampler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return SanaPipeline(networks.tokenizer(), Gemma2Model(text), vae, make_sana(), sampler)  # type: ignore[arg-type]


def dit() -> Any:
    return DiTPipeline(make_dit(), pipelines.vae(), DDIMScheduler())  # type: ignore[arg-type]


SIZES: dict[str, dict[str, Any]] = {
    "sd3": {**pipelines.PIXELS, "max_sequence_length": pipelines.TEXT_TOKENS},
    "flux": {**pipelines.PIXELS, "max_sequence_length": pipelines.TEXT_TOKENS},
    "sana": {"height": 32, "width": 32, "use_resolution_binning": False, "max_sequence_length": 16},
    "dit": {},
}
MAKE: dict[str, Callable[[], Any]] = {"sd3": sd3, "flux": flux, "sana": sana, "dit": dit}
TEXT = ["sd3", "flux", "sana"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    with torch.random.fork_rng():
        for name, make in MAKE.items():
            torch.manual_seed(0)
            pipeline = make()
            pipeline.save_pretrained(root / name)
            if name == "dit":  # as the published folders have it; saving leaves it out
                place = root / name / "model_index.json"
                labels = {str(label): f"thing {label}, object {label}" for label in range(1000)}
                place.write_text(json.dumps(json.loads(place.read_text()) | {"id2label": labels}))
            (root / name / "harness.json").write_text(
                json.dumps({"defaults": {"steps": 4, "guidance": 2.0}, "call": SIZES[name]})
            )
    (root / "prompts.txt").write_text("\n".join(CAPTIONS))
    return {name: root / name for name in MAKE}


def opened(folder: Path) -> Model:
    found = load(str(folder))
    _ = found.pipeline
    return found


@pytest.mark.parametrize("name", TEXT)
def test_a_sweep_end_to_end(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    table = harness.run(
        ["random", {"name": "tome"}, "fewer-steps"], model=str(folders[name]), ratios=[0.3], cases=2, rounds=2,
        prompts=folders[name].parent / "prompts.txt", out=tmp_path / "run",
    )  # fmt: skip
    assert [(r.method, r.outcome, r.reason) for r in table.records] == [
        (method, "ok", "") for method in ("dense", "random", "tome", "fewer-steps")
    ]
    assert (tmp_path / "run" / "tables" / "results.csv").is_file()
    costs = {r.method: r.estimates["gmacs"].value for r in table.records}
    assert costs["random"] < costs["dense"] and costs["tome"] < costs["dense"]


@pytest.mark.parametrize("name", TEXT)
def test_a_dropped_caption_is_what_guidance_leaves_out(folders: dict[str, Path], name: str) -> None:
    """Sana gives prompts an instruction and negative ones none."""
    model = opened(folders[name])
    none, spec = no_text(model), prompting.prompt_spec(model.pipeline)
    assert none.keys() == spec.denoiser_kwargs.keys()
    if name == "flux":
        return  # its fits are refused, and its guidance has no other half
    call = {"prompt": "a red circle", "guidance_scale": 2.0, "num_inference_steps": 1, "output_type": "latent"}
    seen: list[dict[str, Any]] = []
    hook = model.pipeline.transformer.register_forward_pre_hook(
        lambda _module, _args, given: seen.append(given), with_kwargs=True
    )
    model.pipeline(**call, **SIZES[name])
    hook.remove()
    for argument, value in none.items():
        torch.testing.assert_close(value[0], seen[0][argument][0].to(value))  # the unconditional half comes first


@pytest.mark.parametrize(("name", "default"), [("sd3", 256), ("flux", 512), ("sana", 300)])
def test_as_many_text_tokens_as_the_denoiser_gets(folders: dict[str, Path], name: str, default: int) -> None:
    model = opened(folders[name])
    states = model.encode(["a red circle"], guided=name != "flux")["prompt_embeds"]
    found = prompting.text_tokens(model.pipeline, model.call)
    assert found == states.shape[1] and prompting.text_tokens(model.pipeline, {}) == found - 16 + default


def test_no_text_tokens_where_there_is_no_text(folders: dict[str, Path]) -> None:
    assert prompting.text_tokens(opened(folders["dit"]).pipeline, {}) == 0


def test_class_conditional_end_to_end(folders: dict[str, Path], tmp_path: Path) -> None:
    table = harness.run(
        ["tome", "random", {"name": "static", "sets": "strided"}],
        model=str(folders["dit"]), task="class-conditional", ratios=[0.3], cases=2, rounds=2, out=tmp_path / "run",
    )  # fmt: skip
    assert {(r.outcome, r.reason) for r in table.records} == {("ok", "")} and len(table.records) == 4
    assert (tmp_path / "run" / "tables" / "results.csv").is_file()


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_images_are_the_pipelines_own(folders: dict[str, Path], name: str, guidance: float) -> None:
    """Cached states of two prompts in one batch make what the pipeline makes of the prompts themselves."""
    model = opened(folders[name])
    task = registry.tasks.get("text-to-image")(model, steps=2, guidance=guidance)
    cases = task.cases(2, folders[name].parent / "prompts.txt")
    ours = task.generate(cases)
    theirs = model.pipeline(
        [case.prompt for case in cases], num_inference_steps=2, guidance_scale=guidance, output_type="pt",
        generator=[torch.Generator().manual_seed(case.seed) for case in cases], **model.call,
    ).images  # fmt: skip
    assert (ours - theirs).abs().max() < 1e-4 and not torch.equal(ours[0], ours[1])


@pytest.mark.parametrize(("name", "told"), [("sd3", True), ("flux", False), ("sana", True)])
def test_halves_are_the_pipelines_way(folders: dict[str, Path], name: str, told: bool) -> None:
    model = opened(folders[name])
    task = registry.tasks.get("text-to-image")(model, steps=2, guidance=3.0)
    rows: list[int] = []
    handle = model.backbone.transformer.register_forward_pre_hook(
        lambda _m, args, kwargs: rows.append(len(args[0] if args else kwargs["hidden_states"])), with_kwargs=True
    )
    task.generate(task.cases(2, folders[name].parent / "prompts.txt"))
    handle.remove()
    assert task.guided is told and set(rows) == {4 if told else 2}
    task.guidance = 1.0
    assert task.guided is False


def test_two_passes_per_step_are_refused(folders: dict[str, Path]) -> None:
    model = opened(folders["flux"])
    with pytest.raises(UserError, match="leave true_cfg_scale out"):
        prompting.encode(model.pipeline, ["a"], {**model.call, "true_cfg_scale": 2.0}, guided=True)


def test_tasks_refuse_models_of_the_other_kind(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"use --task class-conditional"):
        registry.tasks.get("text-to-image")(opened(folders["dit"]), steps=2, guidance=2.0)
    with pytest.raises(UserError, match=r"\(SanaPipeline\) is not conditioned on classes; expected a DiTPipeline"):
        registry.tasks.get("class-conditional")(opened(folders["sana"]), steps=2, guidance=2.0)
    with pytest.raises(UserError, match="give --model"):
        harness.run("tome", task="class-conditional", cases=2)


# -- classes ---------------------------------------------------------------------------------------------------------


def test_classes_are_even_and_named(folders: dict[str, Path], tmp_path: Path) -> None:
    model = load(str(folders["dit"]))
    task = registry.tasks.get("class-conditional")(model, steps=2, guidance=2.0)
    labels = [case.data["label"] for case in task.cases(10)]
    assert labels == list(range(0, 1000, 100))
    many = [case.data["label"] for case in task.cases(2500)]
    assert {many.count(label) for label in range(1000)} == {2, 3}
    tuned, judged = task.calibration(4, after=10), task.cases(10)
    assert not {(c.data["label"], c.seed) for c in tuned} & {(c.data["label"], c.seed) for c in judged}
    assert len({c.data["label"] for c in tuned}) == 4
    lines = tmp_path / "classes.txt"
    lines.write_text("7\nThing 12\nobject 5\n")
    assert [(c.data["label"], c.prompt) for c in task.cases(3, lines)][1] == (12, "thing 12, object 12")
    assert [c.data["label"] for c in task.cases(3, lines)] == [7, 12, 5]
    for text, complaint in (("1000", "run from 0 to 999, got 1000"), ("thingg 12", "did you mean 'thing 12'")):
        lines.write_text(text)
        with pytest.raises(UserError, match=complaint):
            task.cases(1, lines)
    lines.write_text("3\n")
    assert [case.data["label"] for case in task.cases(2, lines)] == [3]  # a sweep says that there are no more
    place = folders["dit"] / "model_index.json"
    named = json.loads(place.read_text())
    named["id2label"] |= {"134": "crane", "517": "crane", "8": "hen", "9": "hen, biddy"}
    (tmp_path / "birds").mkdir()
    shutil.copytree(folders["dit"], tmp_path / "birds", dirs_exist_ok=True)
    (tmp_path / "birds" / "model_index.json").write_text(json.dumps(named))
    birds = registry.tasks.get("class-conditional")(load(str(tmp_path / "birds")), steps=2, guidance=2.0)
    lines.write_text("hen")
    assert birds.cases(1, lines)[0].data["label"] == 8  # a whole name before a part of one
    lines.write_text("crane")
    with pytest.raises(UserError, match=r"'crane' is the name of several classes: 134 \(crane\), 517"):
        birds.cases(1, lines)


def test_an_image_is_the_pipelines_own(folders: dict[str, Path]) -> None:
    model = opened(folders["dit"])
    task = registry.tasks.get("class-conditional")(model, steps=2, guidance=2.0)
    case = task.cases(3)[1]
    theirs = model.pipeline(
        class_labels=[333], guidance_scale=2.0, num_inference_steps=2, generator=torch.Generator().manual_seed(1),
        output_type="pt",
    ).images  # fmt: skip
    assert torch.allclose(task.generate([case]), theirs, atol=1e-5)


# -- fits ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    out = tmp_path / "data"
    out.mkdir()
    for i, (image, caption) in enumerate(zip(scene.render(scene.sample("train", range(3)))[0], CAPTIONS, strict=True)):
        to_pil_image(image).save(out / f"{i}.png")
        (out / f"{i}.txt").write_text(caption)
    return out


@pytest.mark.parametrize("name", ["sd3", "sana"])
def test_rectified_flow_models_are_fitted(folders: dict[str, Path], pictures: Path, tmp_path: Path, name: str) -> None:
    model = opened(folders[name])
    options = FitOptions(steps=2, batch=2, lora_rank=2)
    data = data_for(model, options, trains=True, folder=pictures, work=tmp_path)
    methods = settings_of(MethodSpec(name="uniform"), (0.3,))
    (path,) = fit.fit(
        methods, model, options, data, tmp_path / "out", tmp_path / "work", accelerator=Accelerator(cpu=True)
    )
    tensors, _ = checkpoints.load(path)
    assert any(tensor.abs().sum() > 0 for key, tensor in tensors.items() if key.endswith(".B"))
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


@pytest.mark.parametrize("name", ["flux", "dit"])
def test_fits_of_others_are_refused(folders: dict[str, Path], pictures: Path, tmp_path: Path, name: str) -> None:
    model = opened(folders[name])
    with pytest.raises(UserError, match=r"cannot be fitted: fits do not know how (Flux|DiT)Pipeline conditions"):
        data_for(model, FitOptions(), trains=True, folder=pictures, work=tmp_path)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_noise_of_a_sampler_is_an_image_s_own(folders: dict[str, Path], guidance: float) -> None:
    """DDPM draws noise at every step, for which the pipeline gives it no source."""
    model = opened(folders["dit"])
    model.pipeline.scheduler = DDPMScheduler.from_config(model.pipeline.scheduler.config)
    task = registry.tasks.get("class-conditional")(model, steps=3, guidance=guidance)
    cases = task.cases(3)
    together = task.generate(cases)
    torch.manual_seed(5)
    assert torch.allclose(together, torch.cat([task.generate([case]) for case in cases]), atol=1e-4)
    assert "step" not in vars(model.pipeline.scheduler)


def test_known_parts_follow_a_sampler_of_two_stages(lazy_folder: Path) -> None:
    """Heun's has two timesteps for each step: what is blended has the noise of the step that comes."""
    pipeline = load(str(lazy_folder)).pipeline
    scheduler = HeunDiscreteScheduler(num_train_timesteps=1000)
    scheduler.set_timesteps(4)
    at: list[float] = []

    def add_noise(clean: Tensor, _noise: Tensor, timesteps: Tensor) -> Tensor:
        at.append(float(timesteps[0]))
        return clean

    def run(callback: Any, latents: Tensor, height: int, width: int, **_: Any) -> Any:
        for step in range(4):  # as PixArt calls back
            callback(step, None, latents)
        return SimpleNamespace(images=torch.zeros(1, 3, height, width))

    scheduler.add_noise = add_noise  # type: ignore[method-assign]
    parts = {"scheduler": scheduler, "vae": pipeline.vae, "device": torch.device("cpu")}
    blend = type("Pipeline", (), {"__call__": staticmethod(run), **parts})()
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[:, :32] = True
    latents = torch.zeros(1, pipeline.vae.config.latent_channels, 16, 16)
    latent_blending.fill(blend, torch.zeros(1, 3, 64, 64), mask, latents)
    unique = list(dict.fromkeys(scheduler.timesteps.tolist()))
    assert at == unique[1:4]
