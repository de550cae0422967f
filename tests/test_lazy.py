"""Lazy Diffusion's model: tokens, saving and loading, cost by hand."""

from pathlib import Path

import pytest
import torch
from diffusers import PixArtSigmaPipeline
from hypothesis import given, settings
from hypothesis import strategies as st

import harness
from harness.attach import attached
from harness.config import MethodSpec, settings_of
from harness.measure import flops
from harness.models import load
from harness.models.inpainting.lazy_pipeline import LazyInpaintPipeline
from harness.models.inpainting.regions import covered, places, square
from harness.models.lazy import LazyPixArt, pack
from harness.models.random_init import build
from harness.spec import Call, State, Step
from harness.tokens import unpack

MASK = torch.zeros(2, 64, 64, dtype=torch.bool)
MASK[0, 10:30, 21:40] = True
MASK[1, 30:50, 21:40] = True


def call(pipeline: LazyInpaintPipeline, strategy: str = "lazy", **more: object) -> torch.Tensor:
    options = {"num_inference_steps": 3, "guidance_scale": 2.0, "max_sequence_length": 32, **more}
    noise = torch.randn(2, 6, 16, 16, generator=torch.Generator().manual_seed(0))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    prompts = ["a red star", "a blue ring"]
    return pipeline(prompts, images, MASK, strategy=strategy, latents=noise, **options).images  # type: ignore[arg-type]


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([1, 2, 4]), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_packing_is_undone_by_unpacking(patch: int, channels: int, rows: int, columns: int) -> None:
    latents = torch.randn(2, channels, rows * patch, columns * patch)
    tokens = pack(latents, patch)
    assert tokens.shape == (2, rows * columns, channels * patch * patch)
    assert torch.equal(unpack(tokens, patch, (rows * patch, columns * patch)), latents)


@pytest.mark.parametrize("patch", [1, 2])
def test_on_all_tokens_and_without_context_it_is_pixart(patch: int) -> None:
    config = {
        "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 8, "num_layers": 2,
        "cross_attention_dim": 32, "caption_channels": 24, "sample_size": 8, "patch_size": patch,
    }  # fmt: skip
    torch.manual_seed(0)
    lazy = LazyPixArt(**config, context_channels=16)
    from diffusers import PixArtTransformer2DModel

    whole = PixArtTransformer2DModel(**config, use_additional_conditions=False)
    assert not whole.load_state_dict(lazy.state_dict(), strict=False).missing_keys
    x, text, t = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 24), torch.tensor([10.0, 900.0])
    mask = torch.ones(2, 5)
    mask[1, 3:] = 0
    with torch.no_grad():
        said = whole(x, text, t, added_cond_kwargs={}, encoder_attention_mask=mask, return_dict=False)[0]
        tokens = pack(x, patch)
        index = torch.arange(tokens.shape[1]).expand(2, -1)
        context = torch.randn(2, tokens.shape[1], 16)  # its projection starts at zero
        ours = lazy(tokens, text, t, index, context, encoder_attention_mask=mask)[0]
        assert torch.allclose(unpack(ours, patch, (8, 8)), said, atol=1e-5)
        some = index[:, [1, 5, 6]]
        fewer = lazy(tokens[:, [1, 5, 6]], text, t, some, context[:, [1, 5, 6]])[0]
    assert fewer.shape == (2, 3, 8 * patch * patch)


def test_it_saves_and_loads_as_a_pipeline_folder(lazy_folder: Path, tmp_path: Path) -> None:
    first = LazyInpaintPipeline.from_pretrained(lazy_folder)
    first.set_progress_bar_config(disable=True)
    first.save_pretrained(tmp_path / "again")
    again = load(str(tmp_path / "again")).pipeline
    assert isinstance(again, LazyInpaintPipeline) and isinstance(again, PixArtSigmaPipeline)
    assert torch.equal(call(first), call(again))


@pytest.mark.parametrize("strategy", ["lazy", "whole", "crop"])
def test_only_masked_pixels_change_and_what_they_hid_is_not_seen(lazy_folder: Path, strategy: str) -> None:
    pipeline = load(str(lazy_folder)).pipeline
    images = torch.rand(2, 3, 64, 64)
    noise = torch.randn(2, 6, 16, 16)
    options = {
        "latents": noise, "strategy": strategy, "num_inference_steps": 2, "guidance_scale": 2.0,
        "max_sequence_length": 32,
    }  # fmt: skip
    made = pipeline(["a", "b"], images, MASK, **options).images
    kept = ~MASK[:, None].expand_as(images)
    assert torch.equal(made[kept], images[kept]) and not torch.equal(made, images)
    other = torch.where(MASK[:, None], torch.rand_like(images), images)  # something else behind the mask
    assert torch.equal(pipeline(["a", "b"], other, MASK, **options).images, made)


def test_lazy_and_whole_see_the_whole_image_and_crop_does_not(lazy_folder: Path) -> None:
    pipeline = load(str(lazy_folder)).pipeline
    noise, images = torch.randn(1, 6, 16, 16), torch.rand(1, 3, 64, 64)
    far = images.clone()
    far[..., 60:, 60:] = 0  # far from the mask and outside of the square around it
    for strategy, sees in (("lazy", True), ("whole", True), ("crop", False)):
        made = [
            pipeline("a", i, MASK[:1], latents=noise, strategy=strategy, num_inference_steps=2, max_sequence_length=32)
            for i in (images, far)
        ]
        one, other = (out.images[0][:, MASK[0]] for out in made)
        assert torch.equal(one, other) is not sees, strategy


def test_masks_of_different_sizes_are_refused_together(lazy_folder: Path) -> None:
    pipeline = load(str(lazy_folder)).pipeline
    mask = MASK.clone()
    mask[1, 60:] = True
    with pytest.raises(ValueError, match="different numbers of tokens"):
        pipeline(["a", "b"], torch.rand(2, 3, 64, 64), mask, max_sequence_length=32)
    with pytest.raises(ValueError, match="a mask is empty"):
        pipeline(["a", "b"], torch.rand(2, 3, 64, 64), MASK & False, max_sequence_length=32)
    with pytest.raises(ValueError, match=r"expected images of 64 x 64"):
        pipeline(["a", "b"], torch.rand(2, 3, 32, 32), mask, max_sequence_length=32)


def test_cost_of_the_decoder_by_hand() -> None:
    width, layers, text, channels = 32, 3, 7, 4
    lazy = LazyPixArt(
        num_attention_heads=2, attention_head_dim=16, in_channels=channels, out_channels=channels, num_layers=layers,
        cross_attention_dim=width, caption_channels=24, sample_size=8, patch_size=2, context_channels=20,
    ).eval()  # fmt: skip

    def by_hand(k: int) -> int:
        block = k * 4 * width**2 + 2 * k * k * width  # self-attention
        block += 2 * (k + text) * width**2 + 2 * k * text * width  # cross-attention
        block += 8 * k * width**2
        ends = k * (4 * channels * width + 20 * width + width * 4 * channels)
        caption = text * (24 * width + width**2)
        timestep = 256 * width + width**2 + width * 6 * width
        return layers * block + ends + caption + timestep

    for k in (3, 11):
        inputs = (torch.randn(1, k, 16), torch.randn(1, text, 24), torch.tensor([3.0]))
        index, context = torch.arange(k)[None], torch.randn(1, k, 20)
        found = flops.count(lazy, lambda i=inputs, x=index, c=context: lazy(*i, x, c), images=1)
        assert found.gmacs * 1e9 == pytest.approx(by_hand(k), rel=1e-6)


@pytest.mark.parametrize(("tokens", "published"), [(1024, 1085.1), (256, 285.8)])
def test_cost_at_real_size_by_hand_and_as_published(tokens: int, published: float) -> None:
    """Masks of 512 x 512 and 256 x 256 pixels in 1024 x 1024, 120 text tokens, both CFG halves."""
    lazy, width, text = build("lazydiffusion-1024"), 1152, 120

    def run() -> None:
        empty = {"device": "meta"}
        lazy(
            torch.empty(2, tokens, 16, **empty), torch.empty(2, text, 4096, **empty), torch.empty(2, **empty),
            torch.zeros(2, tokens, dtype=torch.long, **empty), torch.empty(2, tokens, width, **empty),
        )  # fmt: skip

    found = flops.count(lazy, run, images=1)
    block = (4 + 2 + 8) * tokens * width**2 + 2 * text * width**2 + 2 * tokens * (tokens + text) * width
    ends = tokens * (16 + width + 32) * width + text * (4096 + width) * width + (256 + 7 * width) * width
    assert found.gmacs == pytest.approx(2 * (28 * block + ends) / 1e9, rel=1e-6)
    assert found.gmacs_paper == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize("name", ["tome", "uniform", "static"])
def test_methods_run_on_the_masked_tokens_and_leave_no_trace(lazy_folder: Path, name: str) -> None:
    model = load(str(lazy_folder))
    backbone, width = model.backbone, model.backbone.width
    (method,) = settings_of(MethodSpec(name=name, settings={"ratio": 0.3}), ())
    tensors = {"router": torch.randn(3, width), "importance": torch.rand(3, 16, 16)}
    state = State(tensors, {"rescale": "mlp", "score_scale": 2.0}) if method.needs_state else None
    seen: list[tuple[int, torch.Tensor | None]] = []

    def inner(one: Call) -> torch.Tensor:
        seen.append((one.x.shape[1], one.index))
        return one.run(one.x)

    dense = call(model.pipeline)
    with attached(backbone, method, state), backbone.advise("block", inner), backbone.at(Step(0, 3, 900.0)):
        routed = call(model.pipeline)
    tokens = int(covered(MASK[0], 4).sum())
    kept = {"tome": tokens - int(0.3 * tokens), "uniform": int(0.7 * tokens), "static": -(-7 * tokens // 10)}[name]
    assert {count for count, _ in seen} == {kept}
    if name != "tome":
        masked = covered(MASK, 4).flatten(1)
        for _, index in seen:  # kept tokens lie under each image's own mask
            assert index is not None and bool(masked.repeat(2, 1).gather(1, index).all())
    assert not torch.equal(routed, dense)
    assert torch.equal(call(model.pipeline), dense)


def test_places_of_a_window() -> None:
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[20:24, 40:44] = True
    where = square(mask, 0.25, 4)
    index = places(where, 4, 16)
    assert len(index) == (where.side // 4) ** 2
    assert set(covered(mask, 4).flatten().nonzero().flatten().tolist()) <= set(index.tolist())


def test_two_lines_make_it_cheaper_in_your_own_code(lazy_folder: Path) -> None:
    pipeline = LazyInpaintPipeline.from_pretrained(lazy_folder)
    pipeline.set_progress_bar_config(disable=True)
    dense = call(pipeline)
    harness.apply(pipeline, "tome", ratio=0.3)
    assert not torch.equal(call(pipeline), dense)
    harness.remove(pipeline)
    assert torch.equal(call(pipeline), dense)
