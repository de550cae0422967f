"""A step executed otherwise gives the same, and says what it cannot do."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support import build, state_for
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

import harness
from harness import attach, modes
from harness.backbones import compiled_blocks
from harness.backbones.base import Backbone
from harness.errors import UserError
from harness.method import Method
from harness.models import Model, load
from harness.spec import State, Step
from results.tables import step_costs

STEP = Step(2, 4, 500.0)


@pytest.fixture
def model(tiny_folder: Path) -> Model:
    return load(str(tiny_folder))


def unscaled(method: Method, backbone: Backbone) -> State | None:
    state = state_for(method, backbone)
    if state is not None:
        state.facts["rescale"] = "none"
    return state


def output(model: Model, name: str, given: dict[str, Any]) -> torch.Tensor:
    method = build(name, 0.5)
    backbone = model.backbone
    state = unscaled(method, backbone)
    with torch.no_grad(), attach.stepping(backbone, method, state), backbone.at(STEP):
        return backbone.transformer(**given)[0]


def test_compiled_blocks_are_made_once_for_all_layers_and_give_the_same(model: Model) -> None:
    backbone, names = model.backbone, ("dense", "random", "diffcr", "tome")
    given = backbone.inputs(2, text_tokens=8)
    eager = {name: output(model, name, given) for name in names}
    torch._dynamo.reset()
    counters.clear()
    with modes.compiling("compile", [backbone]):
        compiled = {name: output(model, name, given) for name in names[:3]}
        many = counters["stats"]["unique_graphs"]
        compiled["tome"] = output(model, "tome", given)
    for name in names:
        torch.testing.assert_close(compiled[name], eager[name], rtol=1e-4, atol=1e-4)
    # All tokens and half of them, whatever chooses them and however many layers there are.
    assert many == 2
    assert torch.equal(output(model, "dense", given), eager["dense"])  # and is gone behind it
    assert not vars(backbone.blocks[0]).get("forward")


@pytest.mark.parametrize(
    ("name", "own"), [("tome", {"_matched", "_added"}), ("at-edm", {"recovered"}), ("random-keep", {"recovered"})]
)
def test_what_rivals_do_around_their_blocks_is_compiled_too(
    model: Model, monkeypatch: pytest.MonkeyPatch, name: str, own: set[str]
) -> None:
    """As routing is: else a comparison in this mode would be one of who gets compiled."""
    counter, compiled = CompileCounter(), set[str]()

    def traced(function: Any, *, dynamic: bool, mode: str) -> Any:
        compiled.add(function.__name__)
        return compile_(function, dynamic=dynamic, backend=counter, fullgraph=True)

    compile_ = torch.compile
    given = model.backbone.inputs(2, text_tokens=8)
    eager = output(model, name, given)
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", traced)
    with modes.compiling("compile", [model.backbone]):
        out = output(model, name, given)
        torch.testing.assert_close(out, eager)
        forms = counter.frame_count
        assert torch.equal(output(model, name, given), out) and counter.frame_count == forms
    assert own <= compiled
    torch._dynamo.reset()


def test_more_numbers_of_tokens_than_there_may_be_forms(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_blocks, "FORMS", 1)
    torch._dynamo.reset()
    given = model.backbone.inputs(2, text_tokens=8)
    with modes.compiling("compile", [model.backbone]), pytest.raises(Exception) as raised:
        for name in ("dense", "random"):
            output(model, name, given)
    assert "more than 1 compiled forms" in modes.why(raised.value, "compile")
    assert "--set diffcr.multiple=64" in modes.why(raised.value, "compile")
    torch._dynamo.reset()


def test_dense_is_measured_in_the_same_mode(tiny_folder: Path, tmp_path: Path) -> None:
    run = harness.profile(
        methods=["tome"], model=str(tiny_folder), ratios=[0.5], rounds=2, mode="eager,compile", out=tmp_path / "run"
    )
    frame = step_costs.frame(run)
    assert list(zip(frame["method"], frame["mode"], strict=True)) == [
        ("dense", "eager"), ("tome", "eager"), ("dense", "compile"), ("tome", "compile"),
    ]  # fmt: skip
    assert set(frame["outcome"]) == {"ok"}
    made = {record.method + record.task_settings.get("mode", ""): record for record in run.records}
    assert "mode compile" in made["tomecompile"].estimates["latency_ratio"].convention
    assert "latency_mlp_s" in made["tome"].estimates and "latency_mlp_s" not in made["tomecompile"].estimates
    over = frame[frame["method"] == "tome"]["latency_overhead"]
    assert over.notna().all() and (over > 0.2).all()
    own = made["tome"].samples
    assert len(own["latency_limit_s"]) == len(own["latency_method_s"]) == 2
    assert frame[frame["method"] == "dense"]["latency_overhead"].isna().all()  # dense is its own limit
    harness.profile(
        methods=["tome"], model=str(tiny_folder), ratios=[0.5], rounds=2, mode="compile", out=tmp_path / "run"
    )
    assert len(harness.open_run(tmp_path / "run").records) == 4  # nothing was measured again


def test_refusals(tiny_folder: Path, tmp_path: Path) -> None:
    shared: dict[str, Any] = {"methods": ["tome"], "ratios": [0.2], "rounds": 2, "out": tmp_path / "run"}
    with pytest.raises(UserError, match="mode 'graph' captures CUDA graphs, and the device is 'cpu'"):
        harness.profile(model=str(tiny_folder), mode="eager,graph", **shared)
    with pytest.raises(UserError, match="device meta executes nothing"):
        harness.profile(model="random:pixart-sigma-512", device="meta", mode="compile", **shared)
    with pytest.raises(UserError, match="mode.0: Input should be 'eager', 'compile'"):
        harness.profile(model=str(tiny_folder), mode="fast", **shared)
    assert not (tmp_path / "run").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "name", ["dense", "diffcr", "uniform", "sensitivity", "random", "random-keep", "tome", "at-edm"]
)
@pytest.mark.parametrize("mode", ["graph", "compile+graph"])
@pytest.mark.filterwarnings("ignore:TensorFloat32")
def test_a_captured_step_gives_the_same(name: str, mode: Any, model: Model) -> None:
    backbone = model.backbone
    backbone.transformer.cuda()
    given = backbone.inputs(2, text_tokens=8)
    eager = output(model, name, given)
    method, kept = build(name, 0.5), list[torch.Tensor]()
    state = unscaled(method, backbone)

    def step() -> None:
        with torch.no_grad(), backbone.at(STEP):
            kept[:] = [backbone.transformer(**given)[0]]

    with modes.compiling(mode, [backbone]):
        on = partial(attach.stepping, backbone, method, state)
        with modes.captured([step], on, torch.device("cuda", 0)) as replay:
            replay()
            torch.cuda.synchronize()
    torch.testing.assert_close(kept[0], eager, rtol=1e-3, atol=1e-3)
