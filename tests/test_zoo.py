"""The embedded model as shipped: sizes, judge, adapters."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import PixArtSigmaPipeline

from harness import checkpoints
from harness.metric import Sample, images_to_uint8
from harness.models import load
from harness.models.loading import folder_of
from harness.zoo.shapes import judge, scene
from harness.zoo.shapes.stages.vae import round_trip
from tasks import inpainting_cases
from tasks.inpainting import Inpainting, InpaintingSettings
from tasks.metrics import features
from tasks.metrics.masked import MaskedAlignment

WEIGHTS = Path(judge.__file__).parent / "weights"
INPAINT = Path(judge.__file__).parent.parent / "shapes_inpaint"
EMOJI = INPAINT.with_name("emoji")
FITTED = ("uniform", "diffcr-l", "diffcr-lt", "depth-ft", "width-ft")
ONCE = {"static", "sensitivity", "depth", "width", "magcache", "l2c", "dense-ft"}
SHIPPED = {
    "shapes": {f"{name}-{ratio}" for name in FITTED for ratio in (10, 20, 30)} | ONCE | {"diffcr-lt-50", "uniform-50"},
    "shapes-inpaint": {f"{name}-{ratio}" for name in FITTED for ratio in (20, 30)} | ONCE,
    "emoji": {
        "diffcr-l-30",
        "diffcr-lt-10",
        "diffcr-lt-20",
        "diffcr-lt-30",
        "uniform-20",
        "uniform-30",
        "depth-ft-20",
        "width-ft-20",
        "dense-ft",
        "l2c",
        "magcache",
        "sensitivity",
    },
}


@pytest.mark.parametrize("folder", [WEIGHTS.parent, INPAINT, EMOJI])
def test_everything_is_safetensors_and_small(folder: Path) -> None:
    """17 MB of weights per model, and at most 2 MB for each adapter."""
    weights, adapters = ([p for p in (folder / part).rglob("*") if p.is_file()] for part in ("weights", "adapters"))
    assert {p.suffix for p in weights + adapters if p.stat().st_size > 100_000} == {".safetensors"}
    assert sum(p.stat().st_size for p in weights) <= 17 * 2**20
    assert all(p.stat().st_size <= 2 * 2**20 for p in adapters)
    for path in (p for p in weights if p.suffix == ".json"):
        assert '"_name_or_path"' not in path.read_text(), f"{path} tells where it was made"


@pytest.mark.parametrize("strategy", ["whole", "lazy"])
def test_the_inpainting_model_paints_what_the_caption_says(strategy: str) -> None:
    model, indices = load("shapes-inpaint"), range(20_000, 20_016)  # no case of a usual sweep
    settings = InpaintingSettings(strategy=strategy, mask_area=0.25)  # type: ignore[arg-type]
    cases = inpainting_cases.from_scenes("evaluation", indices, 0.25)
    made = Inpainting(model, steps=20, guidance=2.0, settings=settings).generate(cases)
    found = MaskedAlignment(model).estimates(Sample(cases, images_to_uint8(made)), None)["alignment_masked"]
    assert found.value >= 0.9  # grey under the mask gets about 0.2


def test_it_is_a_pipeline_like_any_other() -> None:
    pipeline = PixArtSigmaPipeline.from_pretrained(folder_of("shapes"))
    config = pipeline.transformer.config
    assert config.sample_size == 16 and config.patch_size == 1  # 256 tokens
    assert pipeline.scheduler.config.algorithm_type == "dpmsolver++"


@pytest.mark.parametrize("name", list(SHIPPED))
def test_shipped_adapters_belong_to_the_shipped_model(name: str) -> None:
    model = load(name)
    assert set(model.adapter_files()) == SHIPPED[name]
    for adapter in SHIPPED[name]:
        state = model.adapter(adapter)
        assert state.facts["model_digest"] == model.digest


@pytest.mark.parametrize("through_vae", [False, True])
def test_the_judge_reads_renders(through_vae: bool) -> None:
    """At least 98 % per attribute on held-out renders, as they are and through the VAE."""
    scenes = scene.sample("evaluation", range(10_000, 10_512))  # no case of a usual sweep
    images = scene.render(scenes)[0]
    if through_vae:
        images = round_trip(load("shapes").pipeline.vae, images)
    with torch.no_grad():
        answers = judge.agreement(judge.load()(images)[0], scenes)
    for name in ("presence", "shape", "colour", "size", "background", "background_texture"):
        right, asked = answers[name]
        assert right.sum() / asked.sum() >= 0.98, name


def test_the_stored_reference_features_are_those_of_the_judge() -> None:
    stored, rows = features.reference(), range(512, 544)
    assert checkpoints.facts(features.STORED) == features.fingerprint()
    assert np.allclose(stored[512:544], features.computed(rows), atol=1e-3)
