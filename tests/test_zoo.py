"""The embedded model as shipped: sizes, judge, adapters."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import PixArtSigmaPipeline

from harness.models import load
from harness.models.loading import folder_of
from harness.training import checkpoints
from harness.zoo.shapes import judge, scene
from harness.zoo.shapes.stages.vae import round_trip
from tasks.metrics import features

WEIGHTS = Path(judge.__file__).parent / "weights"
ADAPTERS = Path(judge.__file__).parent / "adapters"
SHIPPED = {f"{name}-{ratio}" for name in ("uniform", "diffcr-l", "diffcr-lt") for ratio in (10, 20, 30)} | {"static"}


def test_everything_is_safetensors_and_small() -> None:
    files = [p for p in (*WEIGHTS.rglob("*"), *ADAPTERS.rglob("*")) if p.is_file()]
    heavy = [p for p in files if p.stat().st_size > 100_000]
    assert {p.suffix for p in heavy} == {".safetensors"}
    assert sum(p.stat().st_size for p in files) <= 16 * 2**20
    assert all(p.stat().st_size <= 2**20 for p in ADAPTERS.glob("*"))


def test_it_is_a_pipeline_like_any_other() -> None:
    pipeline = PixArtSigmaPipeline.from_pretrained(folder_of("shapes"))
    config = pipeline.transformer.config
    assert config.sample_size == 16 and config.patch_size == 1  # 256 tokens
    assert pipeline.scheduler.config.algorithm_type == "dpmsolver++"


def test_shipped_adapters_belong_to_the_shipped_model() -> None:
    model = load("shapes")
    assert set(model.adapter_files()) == SHIPPED
    for name in SHIPPED:
        state, _ = model.adapter(name)
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
