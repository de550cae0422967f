"""`harness.apply` on pipelines as users have them: fused, with LoRA of their own, dropped."""

import copy
import gc
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload_with_hook
from accelerate.hooks import remove_hook_from_module
from diffusers import PixArtSigmaPAGPipeline, PixArtSigmaPipeline
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor

import harness
from harness import checkpoints
from harness.errors import UserError
from harness.models import Model, load
from harness.models.loading import digest_of
from harness.zoo import shapes as shapes_zoo
from methods.caching.pab import PAB

LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"]


@pytest.fixture
def shapes() -> Any:
    return load("shapes").pipeline


def draw(pipeline: Any, steps: int = 2) -> Tensor:
    return pipeline(
        "a large red plain circle top left", num_inference_steps=steps, guidance_scale=4.5, output_type="latent",
        generator=torch.Generator().manual_seed(0), height=64, width=64, clean_caption=False,
        use_resolution_binning=False, max_sequence_length=32,
    ).images  # fmt: skip


def fuse(pipeline: Any) -> None:
    with torch.no_grad():
        pipeline.transformer.fuse_qkv_projections()


def add_lora(pipeline: Any) -> None:
    """Without any effect yet, B being 0."""
    with torch.random.fork_rng():
        inject_adapter_in_model(LoraConfig(r=4, target_modules=LAYERS), pipeline.transformer)


@pytest.mark.parametrize("change", [fuse, add_lora])
def test_methods_that_change_weights_by_name_are_refused_and_others_as_ever(
    shapes: Any, change: Callable[[Any], None]
) -> None:
    plain = {}
    for method in ("static", "tome", "uniform"):
        with harness.applied(shapes, method, ratio=0.2):
            plain[method] = draw(shapes)
    change(shapes)
    dense = draw(shapes)
    reason = "fused projections.*unfuse_qkv_projections" if change is fuse else "LoRA layers of somebody else"
    for method in ("uniform", "diffcr", "width", "width-ft", "depth-ft", "dense-ft"):
        with pytest.raises(UserError, match=reason):
            harness.apply(shapes, method, **({} if method == "dense-ft" else {"ratio": 0.2}))
        assert torch.equal(draw(shapes), dense)  # and nothing is left of it
    for method in ("static", "tome"):
        with harness.applied(shapes, method, ratio=0.2):
            assert torch.allclose(draw(shapes), plain[method], atol=1e-4)
    if change is fuse:
        shapes.transformer.unfuse_qkv_projections()
        with harness.applied(shapes, "uniform", ratio=0.2):
            assert torch.allclose(draw(shapes), plain["uniform"], atol=1e-4)


def offloaded(pipeline: Any) -> Callable[[], None]:
    """As `enable_model_cpu_offload` does, on the CPU; what comes back hooks anew, as pipelines do behind every call."""
    hook = [None]

    def anew() -> None:
        if hook[0] is not None:
            hook[0].remove()
        _, hook[0] = cpu_offload_with_hook(pipeline.transformer, "cpu")

    anew()
    return anew


@pytest.mark.parametrize("first", ["offload", "apply"])
def test_a_method_around_the_denoiser_outlives_offloading(shapes: Any, first: str) -> None:
    """accelerate takes a module's forward away behind every call and puts its own there."""
    settings = {"method": "tgate", "gated": 0.5}
    dense = draw(shapes, 4)
    with harness.applied(shapes, **settings):
        gated = draw(shapes, 4)
    if first == "offload":
        anew = offloaded(shapes)
        harness.apply(shapes, **settings)
    else:
        harness.apply(shapes, **settings)
        anew = offloaded(shapes)
    for _ in range(2):
        assert torch.equal(draw(shapes, 4), gated)
        anew()
    harness.remove(shapes)
    for _ in range(2):
        assert torch.equal(draw(shapes, 4), dense)
        anew()
    remove_hook_from_module(shapes.transformer)
    assert torch.equal(draw(shapes, 4), dense) and not torch.equal(dense, gated)


def test_a_third_part_in_each_batch_is_no_half(shapes: Any) -> None:
    """Perturbed-attention guidance: two prompts make six rows, which are no halves of an even batch."""
    pipeline: Any = PixArtSigmaPAGPipeline(**shapes.components, pag_applied_layers=["blocks.3"])

    def drawn(*prompts: str) -> Tensor:
        return pipeline(
            list(prompts), num_inference_steps=4, guidance_scale=4.5, pag_scale=2.0, output_type="latent",
            generator=[torch.Generator().manual_seed(seed) for seed, _ in enumerate(prompts)], height=64, width=64,
            clean_caption=False, use_resolution_binning=False, max_sequence_length=32,
        ).images[:1]  # fmt: skip

    first, second = "a large red plain circle top left", "a small blue plain star top left"
    with harness.applied(pipeline, "tgate", gated=0.5):
        torch.testing.assert_close(drawn(first, second), drawn(first), atol=1e-3, rtol=1e-3)


def test_flux_refuses_what_its_flag_says(model: Model) -> None:
    from diffusers import FluxTransformer2DModel

    from harness.backbones.weights import require_own_layers

    tiny = FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, pooled_projection_dim=20, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    with torch.no_grad():
        tiny.fuse_qkv_projections()
    with pytest.raises(UserError, match="fused projections"):
        require_own_layers(tiny)
    tiny.unfuse_qkv_projections()
    require_own_layers(tiny)


# -- pipelines that are dropped ------------------------------------------------------------------------------------


def test_a_dropped_pipeline_is_freed_and_its_denoiser_restored(model: Model) -> None:
    parts = model.pipeline.components
    names = sorted(vars(parts["transformer"].transformer_blocks[0]))
    settings: dict[str, dict[str, Any]] = {
        "tome": {"ratio": 0.3}, "tgate": {}, "fewer-steps": {}, "precision": {}, "fbcache": {}
    }  # fmt: skip
    for method, values in settings.items():
        pipeline = PixArtSigmaPipeline(**parts)
        pipeline.set_progress_bar_config(disable=True)
        harness.apply(pipeline, method, **values)
        draw(pipeline)
        dead = weakref.ref(pipeline)
        del pipeline
        gc.collect()
        assert dead() is None, method
        assert "set_timesteps" not in vars(parts["scheduler"])
        assert "forward" not in vars(parts["transformer"]) and not parts["transformer"]._forward_pre_hooks
        assert sorted(vars(parts["transformer"].transformer_blocks[0])) == names
        assert next(parts["transformer"].parameters()).dtype == torch.float32


def test_a_new_pipeline_at_an_old_address_carries_nothing(model: Model) -> None:
    parts, places = model.pipeline.components, set()
    for _ in range(10):
        pipeline = PixArtSigmaPipeline(**parts)
        places.add(id(pipeline))
        harness.apply(pipeline, "tome", ratio=0.3)
        with pytest.raises(UserError, match="carries a method already"):
            harness.apply(pipeline, "tome", ratio=0.3)
        del pipeline
        gc.collect()
    harness.remove(model.pipeline)  # nothing to take back


def test_settings_that_are_not_given_have_the_method_s_own_defaults(shapes: Any) -> None:
    """Not the middle of its sweep."""
    drawn = {}
    for name, settings in {"default": {}, "documented": PAB().settings.model_dump(), "swept": {"skip": 3}}.items():
        with harness.applied(shapes, "pab", **settings):
            drawn[name] = draw(shapes, steps=6)
    assert torch.equal(drawn["default"], drawn["documented"]) and not torch.equal(drawn["default"], drawn["swept"])


def test_an_adapter_of_a_variant_belongs_to_the_pipeline_and_another_models_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = Path(shapes_zoo.__file__).parent / "weights" / "pipeline"
    folder = tmp_path / "pipeline"
    shutil.copytree(home, folder)
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    shutil.copy(weights, weights.with_suffix(".fp16.safetensors"))
    pipeline = load(str(folder)).pipeline
    pipeline.register_to_config(_name_or_path=str(folder))
    tensors, facts = checkpoints.load(home.parent.parent / "adapters" / "magcache.safetensors")
    for digest in (digest_of(folder), digest_of(folder, "fp16"), "0" * 64):
        checkpoints.save(tmp_path / "a" / "magcache.safetensors", tensors, facts | {"model_digest": digest})
        if digest.strip("0"):
            with harness.applied(pipeline, "magcache", adapter=tmp_path / "a"):
                pass
        else:
            with pytest.raises(UserError, match="was fitted on another model .digest 000000000000"):
                harness.apply(pipeline, "magcache", adapter=tmp_path / "a")
    assert not caplog.records
    pipeline.register_to_config(_name_or_path="somebody/something")
    with harness.applied(pipeline, "magcache", adapter=tmp_path / "a"):
        assert "whether the adapter was fitted on these weights is not known" in caplog.text


@pytest.mark.parametrize("shared", ["transformer", "scheduler"])
def test_pipelines_that_share_a_part_carry_one_method(model: Model, shared: str) -> None:
    """Two methods on one denoiser, or on one sampler, would not come off exactly."""
    parts = model.pipeline.components
    own = {"transformer": copy.deepcopy(parts["transformer"]), "scheduler": copy.deepcopy(parts["scheduler"])}
    first, second = (
        PixArtSigmaPipeline(**parts),
        PixArtSigmaPipeline(**{**own, **_others(parts), shared: parts[shared]}),
    )
    harness.apply(first, "precision")
    with pytest.raises(UserError, match=f"shares its {shared} with one that carries 'precision'"):
        harness.apply(second, "fewer-steps")
    harness.remove(first)
    with harness.applied(second, "fewer-steps"):
        pass


def _others(parts: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in parts.items() if name not in ("transformer", "scheduler")}
