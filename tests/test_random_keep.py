"""Random tokens, kept or dropped: what belongs to an image, exempt layers and steps, and recovery by similarity."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_methods import draw
from torch import Tensor

from harness.attach import attached
from harness.backbones.pixart import PixArt
from harness.errors import UserError
from harness.measure import flops
from harness.method import Method
from harness.models import Model
from harness.spec import Call, Step
from harness.tokens import kept_count, take
from harness.zoo.shapes import networks
from methods.common.exempt import ExemptSettings, HalfExemptSettings
from methods.common.noise import SeededNoise, seeds_of
from methods.common.recovery import recovered
from methods.random_drop import RandomDrop
from methods.random_keep import RandomKeep
from tests.measure.hand_formulas_pixart import block_macs

WIDTH, LAYERS, TOKENS = 32, 3, 256
BOTH = pytest.mark.parametrize("cls", [RandomDrop, RandomKeep])


def kept_tokens(model: Model, method: Method, **how: int) -> dict[tuple[int, int], Tensor | None]:
    """(step, layer) -> which tokens go through the block, (2 B, K); None: all of them."""
    seen: dict[tuple[int, int], Tensor | None] = {}

    def spy(call: Call) -> Tensor:
        seen[call.step.index, call.layer] = call.index
        return call.run(call.x)

    with attached(model.backbone, method, None), model.backbone.advise("block", spy):
        draw(model, **how)
    return seen


# -- exempt layers and steps ---------------------------------------------------------------------------------


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 60))
def test_steps_that_are_not_exempt_are_the_middle_ones(first: float, last: float, count: int) -> None:
    steps = ExemptSettings(first_steps=first, last_steps=last).steps_of(count)
    for index in range(count):
        inside = first * count <= index < (1 - last) * count
        assert (index in steps) == inside or min(abs(first * count - index), abs((1 - last) * count - index)) < 1e-6


def test_a_start_in_the_middle_spares_the_same_mean() -> None:
    settings = ExemptSettings(ratio=0.2, first_steps=0.3)
    assert settings.share("random", 4, 20) == pytest.approx(0.2 * 20 / 14)
    assert settings.share("random", 4, 20, start=10) == pytest.approx(0.2)
    assert settings.share("random", 4, 20, start=4) == pytest.approx(0.2 * 16 / 14)


def test_exempt_layers_by_count_and_by_default() -> None:
    assert list(ExemptSettings(first_layers=2, last_layers=1).layers_of(5)) == [2, 3]
    assert list(ExemptSettings(first_layers=4, last_layers=4).layers_of(5)) == []
    assert [HalfExemptSettings().layers_of(layers).start for layers in (1, 2, 3, 8, 28)] == [1, 1, 1, 4, 4]
    assert list(HalfExemptSettings(first_layers=0).layers_of(2)) == [0, 1]
    with pytest.raises(UserError, match=r"random cannot spare 0.5 .* 0.36 is the most"):
        ExemptSettings(ratio=0.5, first_layers=3).share("random", 5, 20)


@BOTH
def test_blocks_get_the_tokens_that_the_settings_say(model: Model, cls: type[Method]) -> None:
    method = cls(cls.Settings.model_validate({"ratio": 0.2, "first_layers": 1, "first_steps": 0.5}))
    share = 0.2 * 18 / 6  # three layers and six steps, of which two and three run
    for (step, layer), index in kept_tokens(model, method).items():
        assert (None if index is None else index.shape[1]) == (
            kept_count(share, TOKENS) if step >= 3 and layer >= 1 else None
        )


# -- what belongs to an image --------------------------------------------------------------------------------


@BOTH
def test_an_image_keeps_its_tokens_whatever_its_batch(model: Model, cls: type[Method]) -> None:
    method = cls(cls.Settings.model_validate({"ratio": 0.2, "first_layers": 0}))
    alone, again = kept_tokens(model, method), kept_tokens(model, method)
    both = kept_tokens(model, method, batch=2)
    for place, index in alone.items():
        assert index is not None and both[place] is not None
        assert torch.equal(index, again[place])  # type: ignore[arg-type]
        assert torch.equal(index[0], index[1])  # both CFG halves
        assert torch.equal(both[place][0], index[0]) and torch.equal(both[place][2], index[0])  # type: ignore[index]
        assert not torch.equal(both[place][0], both[place][1])  # type: ignore[index]
    sets = [tuple(index[0].tolist()) for index in alone.values()]  # type: ignore[index]
    assert len(set(sets)) == 6 * LAYERS  # afresh in each layer and at each step
    assert not torch.equal(kept_tokens(model, method, seed=5)[0, 0], alone[0, 0])  # type: ignore[arg-type]


def test_noise_is_gumbel_and_independent_of_the_order_of_calls(backbone: PixArt) -> None:
    latents = torch.randn(2, 6, 16, 16, generator=torch.Generator().manual_seed(0))
    inputs = {
        "encoder_hidden_states": torch.zeros(2, 8, 96), "timestep": torch.full((2,), 500),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }  # fmt: skip
    found: dict[int, list[Tensor]] = {}
    noise = SeededNoise()
    with noise.on(backbone), torch.no_grad():

        def block(call: Call) -> Tensor:
            found.setdefault(call.step.index, []).append(noise(call).clone())
            return call.run(call.x)

        with backbone.advise("block", block):
            for index in (3, 0, 3):
                with backbone.at(Step(index, 4, 500.0)):
                    backbone.transformer(latents, **inputs)
    assert all(torch.equal(a, b) for a, b in zip(found[3][:LAYERS], found[3][LAYERS:], strict=True))
    numbers = torch.stack([*found[0], *found[3][:LAYERS]]).flatten()  # 2 steps x 3 layers x 2 images x 256 tokens
    assert numbers.mean() == pytest.approx(0.5772, abs=0.1) and numbers.std() == pytest.approx(
        math.pi / 6**0.5, abs=0.1
    )


def test_seeds_tell_images_apart_in_every_precision() -> None:
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    latents[2] = latents[0]
    first, second, third = seeds_of(latents)
    assert first == third != second
    assert seeds_of(latents[:1]) == [first]
    assert seeds_of(latents.bfloat16() * 3) == [first, second, third]


# -- recovery ------------------------------------------------------------------------------------------------


def test_a_pruned_token_gets_what_its_twin_got() -> None:
    start = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(0))
    start[:, 4] = 2 * start[:, 1]  # the same direction
    index = torch.tensor([[0, 1, 2]])
    out = start.clone()
    out[:, :3] += torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(1))
    update = recovered(start, out, index, "update")
    assert torch.allclose(update[:, 4] - start[:, 4], out[:, 1] - start[:, 1], atol=1e-6)
    assert torch.equal(recovered(start, out, index, "token")[:, 4], out[:, 1])
    assert torch.equal(update[:, :3], out[:, :3])


def test_a_token_of_zeros_is_like_no_other() -> None:
    start = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.1, 0.9]]])
    out = start + torch.tensor([[[10.0, 0.0], [100.0, 100.0], [0.0, 10.0], [0.0, 0.0]]])
    found = recovered(start, out, torch.tensor([[0, 1, 2]]))
    assert torch.allclose(found[0, 3], torch.tensor([0.1, 10.9]))


@given(st.integers(0, 2**16), st.integers(1, 3), st.integers(2, 9))
def test_recovery_is_a_search_over_all_kept_tokens(seed: int, batch: int, tokens: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    start, update = (torch.randn(batch, tokens, 4, generator=generator) for _ in range(2))
    keep = int(torch.randint(1, tokens + 1, (1,), generator=generator))
    index = torch.rand(batch, tokens, generator=generator).topk(keep).indices.sort().values
    out = start.scatter_add(1, index[..., None].expand(-1, -1, 4), take(update, index))
    found = recovered(start, out, index)
    for b in range(batch):
        for n in range(tokens):
            like = torch.cosine_similarity(start[b, n][None], start[b, index[b]])
            source = n if n in index[b] else index[b, like.argmax()]
            assert torch.allclose(found[b, n], start[b, n] + update[b, source], atol=1e-5)


def test_random_keep_costs_its_tokens_and_the_search(model: Model) -> None:
    def gmacs(ratio: float) -> float:
        method = RandomKeep(RandomKeep.Settings.model_validate({"ratio": ratio}))

        def run() -> None:
            with attached(model.backbone, method, None):
                draw(model)

        return flops.count(model.backbone.transformer, run, images=1).gmacs

    kept = kept_count(0.3 * 3 / 2, TOKENS)  # the first of three layers is exempt
    whole, some = (block_macs(n, WIDTH, networks.TEXT_TOKENS).total for n in (TOKENS, kept))
    search = (TOKENS - kept) * kept * WIDTH
    assert gmacs(0.0) - gmacs(0.3) == pytest.approx(4 * (whole - some - search) / 1e9, rel=1e-6)
