"""The limit of a method: dense on as many tokens, without choosing or moving any."""

from typing import Any

import pytest
import torch
from support import build, state_for
from test_operators import Operators

from harness import attach
from harness.limit import Seen, dense_on, known
from harness.measure.torch_counter import counting
from harness.models import Model, load
from harness.spec import Step

STEP = Step(2, 4, 500.0)


@pytest.fixture
def model(tiny_folder: Any) -> Model:
    return load(str(tiny_folder))


def products(model: Model, name: str, ratio: float) -> tuple[float, float, Seen]:
    """MACs of a step with a method, and of its limit."""
    method = build(name, ratio)
    given, seen = model.backbone.inputs(2, text_tokens=8), Seen()
    state = state_for(method, model.backbone)
    with torch.no_grad(), attach.stepping(model.backbone, method, state), model.backbone.at(STEP):
        with counting() as own:
            model.backbone.transformer(**given)
        with seen.on(model.backbone):
            model.backbone.transformer(**given)
    with torch.no_grad(), dense_on(model.backbone, seen.counts), model.backbone.at(STEP), counting() as least:
        model.backbone.transformer(**given)
    return own.total, least.total, seen


@pytest.mark.parametrize(("name", "ratio"), [("random", 0.3), ("static", 0.5), ("random", 0.9)])
def test_it_has_the_products_of_the_method_alone(name: str, ratio: float, model: Model) -> None:
    own, least, seen = products(model, name, ratio)
    assert own == least and seen.thinned
    assert set(seen.counts.values()) == {round((1 - ratio) * seen.whole + 0.49)}


def test_choosing_has_products_of_its_own(model: Model) -> None:
    own, least, seen = products(model, "diffcr", 0.3)
    backbone = model.backbone
    assert own - least == pytest.approx(2 * seen.whole * backbone.width * backbone.layers)  # a router's, per layer


def test_blocks_that_differ(model: Model) -> None:
    """Each block gets as many tokens as it is told, in any order of counts, and all come out again."""
    layers, whole = model.backbone.layers, 16 * 16
    wanted = {(STEP.index, layer): [whole, 100, 0, 180, 20, 256][layer % 6] for layer in range(layers)}
    seen, given = Seen(), model.backbone.inputs(2, text_tokens=8)
    with torch.no_grad(), dense_on(model.backbone, wanted), seen.on(model.backbone), model.backbone.at(STEP):
        out = model.backbone.transformer(**given)
    assert seen.counts == {place: count for place, count in wanted.items() if count}
    assert out[0].shape[-2:] == given["hidden_states"].shape[-2:]


@pytest.mark.parametrize("counts", [(100,), (180, 100, 180), (256, 100, 180)])
def test_it_copies_tokens_once_for_each_number_of_them(model: Model, counts: tuple[int, ...]) -> None:
    """However often the number changes: it is to move none."""
    backbone, given = model.backbone, model.backbone.inputs(2, text_tokens=8)

    def copies(wanted: tuple[int, ...]) -> int:
        at = {(STEP.index, layer): wanted[layer % len(wanted)] for layer in range(backbone.layers)}
        with torch.no_grad(), dense_on(backbone, at), backbone.at(STEP), Operators() as seen:
            backbone.transformer(**given)
        return seen.found["clone"] + seen.found["cat"] + seen.found["copy_"] + seen.found["_to_copy"]

    assert copies(counts) - copies((256,)) == len(set(counts) - {256})


def test_with_all_tokens_it_is_dense(model: Model) -> None:
    given = model.backbone.inputs(2, text_tokens=8)
    everything = {(STEP.index, layer): 16 * 16 for layer in range(model.backbone.layers)}
    with torch.no_grad():
        plain = model.backbone.transformer(**given)[0]
        with dense_on(model.backbone, everything), model.backbone.at(STEP):
            assert torch.equal(model.backbone.transformer(**given)[0], plain)
        assert torch.equal(model.backbone.transformer(**given)[0], plain)


def test_depth_pruning_has_no_limit_of_its_own(model: Model) -> None:
    _, _, seen = products(model, "depth", 0.34)
    assert not seen.thinned


@pytest.mark.parametrize(("name", "there"), [("random", True), ("static+tgate", False), ("random+precision", False)])
def test_a_composition_has_no_limit(name: str, there: bool) -> None:
    """Dense on as many tokens runs what the other member spares."""
    seen = Seen()
    seen.whole, seen.counts = 256, {(0, 0): 180}
    assert seen.thinned and known(build(name, 0.3), seen) == there
