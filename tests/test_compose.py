"""Compositions: every pair of registered methods either runs and is taken back, or is refused with a reason."""

import re
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support import build, state_for
from test_methods import draw, weights

import harness
from harness import registry
from harness.attach import attached
from harness.compose import method_class, refusal
from harness.errors import UserError
from harness.method import Method
from harness.models import Model
from harness.spec import State

# torch.compile takes its time: it has a test of its own
PAIRS = [pair for pair in permutations([name for name in registry.methods if name != "compile"], 2)]


def states(method: Method, model: Model) -> State:
    """Adapter states of all parts, without a fit."""
    found = {one.name: state_for(one, model.backbone) for one in method.members()}  # type: ignore[arg-type]
    return State(parts={name: state for name, state in found.items() if state is not None})


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=lambda name: name)
def test_every_pair_runs_or_says_why_not(model: Model, first: str, second: str) -> None:
    name = f"{first}+{second}"
    if reason := refusal(registry.methods.get(first), registry.methods.get(second)):
        with pytest.raises(UserError, match="cannot work together"):
            method_class(name)
        assert len(reason) > 20
        return
    before = weights(model)
    method = build(name, 0.3)
    with attached(model.backbone, method, states(method, model)):
        images = draw(model)
        assert torch.equal(draw(model), images)
    assert torch.isfinite(images).all()
    after = model.backbone.transformer.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before)
    for module in model.backbone.transformer.modules():
        assert "forward" not in vars(module) and not hasattr(module, "_diffusers_hook")
        assert not module._forward_pre_hooks


def test_settings_of_a_composition_are_those_of_its_parts() -> None:
    cls = method_class("diffcr+fewer-steps")
    assert set(cls.Settings.model_fields) == {
        "ratio", "seed", "diffcr.axes", "diffcr.temperature", "diffcr.control", "diffcr.refitted", "diffcr.preset",
        "diffcr.trajectory", "diffcr.same_ratios", "diffcr.multiple", "fewer-steps.spared",
    }  # fmt: skip

    assert cls.strength == "ratio" and cls.needs_state and cls.training == "trained"
    method = cls(cls.Settings.model_validate({"ratio": 0.1, "diffcr.axes": "layer", "fewer-steps.spared": 0.5}))
    routed, fewer = method.members()
    assert routed.adapter() == "diffcr-l-10" and method.adapter() == "diffcr-l-10"
    assert fewer.settings.model_dump() == {"spared": 0.5} and method.ratio == 0.1
    assert method_class("fewer-steps+diffcr").strength == "fewer-steps.spared"


def test_both_parts_are_at_work(model: Model) -> None:
    method = build("tome+fewer-steps", 0.3)
    seen: list[int] = []
    handle = model.backbone.blocks[1].attn1.to_q.register_forward_pre_hook(
        lambda _m, args: seen.append(args[0].shape[1])
    )
    with attached(model.backbone, method, None):
        draw(model, steps=10)
    handle.remove()
    assert seen == [180] * 8  # 20 % fewer steps, by default, and 30 % of the tokens merged


def test_unknown_parts_and_fits_of_compositions_are_refused(model: Model) -> None:
    with pytest.raises(UserError, match="did you mean 'tome'"):
        method_class("diffcr+tme")
    with pytest.raises(UserError, match=r"fitted part by part: fit diffcr, precision"):
        build("diffcr+precision", 0.2).fitting(model.backbone, 4)


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_blocks_are_not_captured_one_by_one(mode: str) -> None:
    settings = method_class("compile").Settings
    with pytest.raises(ValidationError, match="take by=whole"):
        settings.model_validate({"mode": mode})
    assert settings.model_validate({"mode": mode, "by": "whole"})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("name", ["compile", "uniform+compile"])
def test_compiled_code_gives_the_same_images_but_for_rounding(model: Model, name: str) -> None:
    method = build(name, 0.3)
    plain = build("uniform", 0.3) if "+" in name else None
    with attached(model.backbone, method, states(method, model)):
        fast = draw(model)
    assert torch.allclose(fast, draw(model, plain), atol=1e-3)
    assert "forward" not in vars(model.backbone.transformer)


def test_a_member_that_never_acts_is_a_silent_no_op(small: dict[str, Any], tmp_path: Path) -> None:
    """Tokens drawn anew change the first block's update too much for its cache."""
    idle, works = ({"name": "random+fbcache", "ratio": 0.3, "fbcache.threshold": value} for value in (0.1, 1.0))
    run = harness.run([idle, works], out=tmp_path / "run", **{**small, "steps": 4})
    _, first, second = run.records
    assert first.outcome == "failed" and re.search(
        r"fbcache changed no cost: .* GMACs per image and step, as random alone \(a silent no-op\)", first.reason
    )
    assert second.outcome == "ok", second.reason
