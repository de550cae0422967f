"""Every cache on every family, in whole sweeps, and with diffusers' own values, whatever its registries remember."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pipelines
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiTPipeline,
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
from families import seeded
from test_dit import make as make_dit
from test_flux import make as make_flux
from test_pipelines import SIZES, sana
from test_sd3 import make as make_sd3
from torch import Tensor

import harness
from harness import checkpoints
from harness.errors import UserError

STEPS = 8
RATIOS = [1.0] + [0.95] * (STEPS - 1)
CACHES: dict[str, dict[str, Any]] = {
    "fbcache": {"threshold": 0.9},
    "pab": {},
    "taylorseer": {"interval": 2},  # at others, diffusers predicts a single step behind the warm-up
    "fastercache": {},
    "magcache": {"threshold": 0.12},
}
TRUE_CFG = {"negative_prompt": "a small blue striped star", "true_cfg_scale": 3.0}
ONE_BRANCH = ("pab", "fastercache")  # diffusers has no contexts for these


def flux() -> Any:
    return pipelines.flux(seeded(lambda: make_flux(joint_attention_dim=96)))


def sd3() -> Any:
    return pipelines.sd3(seeded(lambda: make_sd3(joint_attention_dim=96)))


def dit() -> Any:
    return DiTPipeline(seeded(make_dit), pipelines.vae(), DDIMScheduler())  # type: ignore[arg-type]


def draw(pipeline: Any, **more: Any) -> Tensor:
    return torch.as_tensor(pipelines.draw(pipeline, steps=STEPS, output_type="latent", **more))


def own(pipeline: Any, method: str) -> Any:
    """What a user of diffusers alone would write for Flux."""
    scheduler = pipeline.scheduler

    def now() -> Any:
        return pipeline.current_timestep

    return {
        "fbcache": lambda: FirstBlockCacheConfig(threshold=0.9),
        "pab": lambda: PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2, spatial_attention_timestep_skip_range=(100, 800),
            current_timestep_callback=now,
        ),
        "taylorseer": lambda: TaylorSeerCacheConfig(
            cache_interval=2, disable_cache_before_step=1, max_order=1, taylor_factors_dtype=torch.float32,
            cache_identifiers=[
                r"transformer_blocks\.\d+\.(attn|ff|ff_context)", r"single_transformer_blocks\.\d+\.proj_out"
            ],
            skip_predict_identifiers=[r"single_transformer_blocks\.\d+\.(attn|proj_mlp)"],
        ),
        "fastercache": lambda: FasterCacheConfig(
            spatial_attention_block_skip_range=2, spatial_attention_timestep_skip_range=(-1, 681),
            is_guidance_distilled=True, tensor_format="BCHW", current_timestep_callback=now,
            attention_weight_callback=lambda _module: (scheduler.step_index or 0) / (STEPS - 1),
        ),
        "magcache": lambda: MagCacheConfig(
            threshold=0.12, max_skip_steps=3, retention_ratio=0.2, num_inference_steps=STEPS, mag_ratios=RATIOS
        ),
    }[method]()  # fmt: skip


@pytest.fixture
def adapters(tmp_path: Path) -> Path:
    folder = tmp_path / "adapters"
    folder.mkdir()
    facts = {"method": "magcache", "settings": {}}
    checkpoints.save(folder / "magcache.safetensors", {"mag_ratios": torch.tensor(RATIOS)}, facts)
    return folder


@pytest.mark.parametrize("guidance", [{}, TRUE_CFG], ids=["distilled", "true-cfg"])
@pytest.mark.parametrize("method", CACHES)
def test_flux_after_an_image_has_diffusers_own_values(method: str, guidance: dict[str, Any], adapters: Path) -> None:
    """The pipeline's own cache_context leaves an empty registry behind, and diffusers' caches do when disabled."""
    if guidance and method in ONE_BRANCH:
        pipeline = flux()
        with harness.applied(pipeline, method), pytest.raises(UserError, match="true CFG"):
            draw(pipeline, **guidance)
        return
    reference, pipeline = flux(), flux()
    dense = draw(reference, **guidance)
    reference.transformer.enable_cache(own(reference, method))
    wanted = draw(reference, **guidance)
    reference.transformer.disable_cache()
    for one in (pipeline, reference):
        assert torch.equal(draw(one, **guidance), dense)
        with harness.applied(one, method, adapter=adapters, **CACHES[method]):
            assert torch.equal(draw(one, **guidance), wanted) and torch.equal(draw(one, **guidance), wanted)
        assert torch.equal(draw(one, **guidance), dense) and not torch.equal(dense, wanted)
    reference.transformer.enable_cache(own(reference, method))  # as before
    assert torch.equal(draw(reference, **guidance), wanted)
    with pytest.raises(UserError, match="carries a diffusers hook already|is patched by something else"):
        harness.apply(reference, method, adapter=adapters, **CACHES[method])


@pytest.mark.parametrize("make", [flux, sd3, sana, dit], ids=["flux", "sd3", "sana", "dit"])
def test_every_cache_in_a_sweep(make: Callable[[], Any], tmp_path: Path, adapters: Path) -> None:
    """No point fails, and none is dense's: a cache that does nothing fails its point."""
    folder = tmp_path / "model"
    make().save_pretrained(folder)
    notes = {"defaults": {"steps": STEPS, "guidance": 3.0}, "call": SIZES[make.__name__]}
    (folder / "harness.json").write_text(json.dumps(notes))
    (tmp_path / "p.txt").write_text("a red circle\na blue star\n")
    how = {"task": "class-conditional"} if make is dit else {"prompts": tmp_path / "p.txt"}
    table = harness.run(
        [{"name": name, **settings} for name, settings in CACHES.items()], model=str(folder), cases=2, rounds=2,
        metrics="paired", adapters=adapters, out=tmp_path / "run", ratios=[0.5], **how,
    )  # fmt: skip
    assert len(table.records) == 1 + len(CACHES)  # each at its defaults
    assert {(r.method, r.outcome, r.reason) for r in table.records} == {(m, "ok", "") for m in ("dense", *CACHES)}
    costs = {r.method: r.estimates["gmacs"].value for r in table.records}
    assert all(costs[name] < costs["dense"] for name in CACHES)


@pytest.mark.parametrize("make", [flux, sd3], ids=["flux", "sd3"])
def test_a_predicted_step_of_taylorseer_runs_no_branch(
    make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the authors' code: modulation alone is left of a block."""
    pipeline, ran, plain = make(), list[torch.nn.Module](), torch.nn.Linear.forward
    named = pipeline.transformer.named_modules()
    inside = {module for name, module in named if "transformer_blocks" in name and "norm" not in name}

    def forward(module: torch.nn.Linear, x: Tensor) -> Tensor:
        ran.extend([module] if module in inside else [])
        return plain(module, x)

    monkeypatch.setattr(torch.nn.Linear, "forward", forward)
    draw(pipeline)
    whole, _ = len(ran), ran.clear()
    with harness.applied(pipeline, "taylorseer", interval=4, predicted=0.85):
        draw(pipeline)
    assert whole > 100 and len(ran) == whole * 2 / STEPS  # steps 0 and 4
