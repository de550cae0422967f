"""Controls destroy one axis at equal cost, and the table says what each axis is worth."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support import build, state_for

import harness
from harness import checkpoints
from harness.attach import attached
from harness.compose import method_class
from harness.errors import UserError
from harness.executors.execute import Listener
from harness.fitting.options import FitOptions
from harness.fitting.request import Request
from harness.models import Model, load
from harness.models.adapters import state_of
from harness.spec import State
from harness.token_maps import record
from methods.diffcr import DiffCR
from methods.diffcr.fit import DiffCRFit
from methods.diffcr.method import DiffCRSettings
from tasks.text_to_image import TextToImage

TABLE = [[0.0, 0.2], [0.5, 0.1], [0.1, 0.3]]  # layers x regions of the tiny model


def learned(model: Model) -> State:
    method = build("diffcr", 0.2)
    state = state_for(method, model.backbone)
    assert state is not None
    state.tensors["ratios"] = torch.tensor(TABLE)
    return state


def controlled(control: str) -> DiffCR:
    return DiffCR(DiffCR.Settings.model_validate({"ratio": 0.2, "control": control}))


@pytest.mark.parametrize("control", ["", "random-tokens", "average-tokens"])
def test_controls_of_tokens_keep_the_counts(model: Model, control: str) -> None:
    task = TextToImage(model, steps=4, guidance=2.0)
    keep = record(model, task, task.cases(2)[0], controlled(control), learned(model)).keep
    counts = np.rint(keep.reshape(4, 3, -1).mean(-1) * 256)  # by step and layer
    expected = [[np.ceil(256 * (1 - TABLE[layer][step // 2]) - 1e-9) for layer in range(3)] for step in range(4)]
    assert counts.tolist() == expected


@pytest.mark.parametrize(
    ("control", "table"),
    [
        ("flat-layers", [[0.2, 0.2]] * 3),
        ("averaged-timesteps", [[0.1, 0.1], [0.3, 0.3], [0.2, 0.2]]),
        ("reversed-timesteps", [[0.2, 0.0], [0.1, 0.5], [0.3, 0.1]]),
    ],
)
def test_controls_of_ratios_keep_the_mean(model: Model, control: str, table: list[list[float]]) -> None:
    task = TextToImage(model, steps=4, guidance=2.0)
    keep = record(model, task, task.cases(2)[0], controlled(control), learned(model)).keep
    counts = np.rint(keep.reshape(4, 3, -1).mean(-1) * 256)
    for step in range(4):
        for layer in range(3):
            assert counts[step, layer] == np.ceil(256 * (1 - table[layer][step // 2]) - 1e-6), (step, layer)
    assert np.mean(table) == pytest.approx(np.mean(TABLE))


def test_random_tokens_are_other_ones_in_every_layer_and_step_and_the_same_in_every_batch(model: Model) -> None:
    task = TextToImage(model, steps=4, guidance=2.0)
    cases = task.cases(3)
    state = state_for(build("uniform", 0.5), model.backbone)
    cls = method_class("uniform")
    method = cls(cls.Settings.model_validate({"ratio": 0.5, "control": "random-tokens"}))
    keep = record(model, task, cases[0], method, state).keep.reshape(12, -1) > 0.5
    same = (keep[:, None] == keep[None]).mean(-1)[~np.eye(12, dtype=bool)]
    assert abs(same.mean() - 0.5) < 0.05 and same.max() < 0.7
    from harness.backbones.following import track_sampler

    with track_sampler(model.backbone, model.pipeline, guided=True), attached(model.backbone, method, state):
        alone, together = task.generate(cases[:1]), task.generate(cases)
    assert torch.allclose(alone[0], together[0], atol=1e-4)


def test_average_tokens_are_the_same_for_all_images_of_a_batch(model: Model) -> None:
    task = TextToImage(model, steps=4, guidance=2.0)
    state = state_for(build("uniform", 0.5), model.backbone)
    kept: list[torch.Tensor] = []
    cls = method_class("uniform")
    method = cls(cls.Settings.model_validate({"ratio": 0.5, "control": "average-tokens"}))

    def inner(call: Any) -> torch.Tensor:
        kept.append(call.index)
        return call.run(call.x)

    from harness.backbones.following import track_sampler

    with (
        track_sampler(model.backbone, model.pipeline, guided=True), attached(model.backbone, method, state),
        model.backbone.advise("block", inner),
    ):  # fmt: skip
        task.generate(task.cases(3))
    assert all((index == index[:1]).all() for index in kept) and len(kept) == 12


def test_a_flat_table_has_no_axis_to_test(model: Model) -> None:
    state = learned(model)
    state.tensors["ratios"][:] = 0.2
    idle = {control.name: control.idle for control in build("diffcr", 0.2).controls(state)}
    assert idle["flat-layers"].startswith("no layer axis to test") and not idle["random-tokens"]
    assert idle["averaged-timesteps"].startswith("no timestep axis to test")
    assert not controlled("flat-layers").controls(state)


@pytest.fixture
def adapters(tiny_folder: Path, tmp_path: Path) -> Path:
    """A DiffCR adapter with a table that has every axis, and one of dense-ft."""
    model = load(str(tiny_folder))
    state = learned(model)
    facts = state.facts | {"model_digest": model.digest, "method": "diffcr", "noise": 0.45}
    checkpoints.save(tmp_path / "adapters" / "diffcr-lt-20.safetensors", state.tensors, facts)
    return tmp_path / "adapters"


def test_attribution_from_end_to_end(tiny_folder: Path, adapters: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words: dict[str, Any] = {"model": str(tiny_folder), "adapters": adapters, "rounds": 2, "steps": 4, "out": out}
    run = harness.attribute("diffcr", ratio=0.2, cases=8, batch=8, **words)
    table = run.attribution
    assert table is not None
    controls = {(row["axis"], row["control"]) for row in table.to_dict("records")}
    assert controls == {
        ("tokens", "random-tokens"), ("tokens", "average-tokens"), ("layers", "flat-layers"),
        ("timesteps", "averaged-timesteps"), ("timesteps", "reversed-timesteps"),
    }  # fmt: skip
    kept = pd.read_csv(out / "tables" / "attribution.csv")
    wanted = ["method", "ratio", "model", "axis", "control", "metric", "difference", "low", "high", "p", "n",
              "gmacs_method", "gmacs_control"]  # fmt: skip
    assert set(wanted) <= set(kept.columns) and (kept["n"] == 8).all() and kept["p"].notna().any()
    assert (abs(kept["gmacs_method"] / kept["gmacs_control"] - 1) < 0.05).all()
    own = {r.key: r for r in run.records}
    row = kept[(kept["control"] == "random-tokens") & (kept["metric"] == "psnr_to_dense")].iloc[0]
    pair = [own[row[name]].estimates["psnr_to_dense"].value for name in ("key_method", "key_control")]
    assert row["difference"] == pytest.approx(pair[0] - pair[1])
    text = (out / "tables" / "attribution.md").read_text()
    assert "## psnr_to_dense" in text
    headline = text.partition("## truth[shapes-judge]")[2].partition("\n## ")[0]
    assert "| p, Holm | verdict |" in headline
    said = [line.rsplit("|", 2)[1].strip() for line in headline.splitlines() if line.startswith("| diffcr")]
    assert len(said) == 5 and all(w in ("better", "worse") or w.startswith("not distinguishable with 8") for w in said)
    assert (out / "plots" / "attribution.png").stat().st_size > 5000


def test_training_seeds_are_taken_together(tiny_folder: Path, tmp_path: Path) -> None:
    model = load(str(tiny_folder))
    torch.manual_seed(3)
    for seed in range(3):
        for name in ("uniform-50", "random-ft-50"):
            state = learned(model)
            state.tensors["router"] = torch.randn_like(state.tensors["router"])
            # LoRA of their own would make fits differ; here the routers do
            suffix = f"-s{seed}" if seed else ""
            facts = state.facts | {"model_digest": model.digest, "noise": 0.45}
            checkpoints.save(tmp_path / "adapters" / f"{name}{suffix}.safetensors", state.tensors, facts)
    run = harness.attribute(
        "uniform", ratio=0.5, training_seeds=[0, 1, 2], refit=True, controls=["random-tokens", "random-ft"],
        model=str(tiny_folder), adapters=tmp_path / "adapters", rounds=2, steps=2, cases=8, batch=8, out=tmp_path / "o",
    )  # fmt: skip
    assert run.attribution is not None
    some = run.attribution[run.attribution["metric"] == "psnr_to_dense"].set_index(["control", "seed"])
    assert sorted(some.index) == [(c, s) for c in ("random-ft", "random-tokens") for s in ("0", "1", "2", "all")]
    assert set(some.loc["random-ft", "form"]) == {"refitted"} and set(some.loc["random-tokens", "form"]) == {"swapped"}
    for control in ("random-ft", "random-tokens"):
        each = [some.loc[(control, str(seed)), "difference"] for seed in range(3)]
        over = some.loc[(control, "all")]
        assert over["difference"] == pytest.approx(np.mean(each))
        half = 4.3027 * np.std(each, ddof=1) / np.sqrt(3)  # Student's t, 2 degrees of freedom; images widen it
        assert half <= over["high"] - np.mean(each) == pytest.approx(np.mean(each) - over["low"])
        assert over["high"] - over["low"] < 4 * half
    document = (tmp_path / "o" / "tables" / "attribution.md").read_text()
    assert "| all |" in document and "seeds and images both" in document


def test_random_tokens_can_be_refitted_with_the_ratios_of_the_fit_itself(tiny_folder: Path, adapters: Path) -> None:
    own = DiffCR(DiffCRSettings.model_validate({"ratio": 0.2}))
    refitted = {"control": "random-tokens", "refitted": True, "same_ratios": True}
    random = DiffCR(own.settings.model_copy(update=refitted))
    assert random.adapter() == "diffcr-lt-20-random-tokens-same-ratios"
    options = FitOptions.model_validate({"steps": 6, "batch": 4, "scenes": 64, "lora_rank": 2})
    settings = random.settings.model_dump(mode="json", exclude={"ratio"})
    Request("diffcr", settings, (0.2,), options).run(str(tiny_folder), adapters)
    state = state_of(random, load(str(tiny_folder), adapters=(adapters,)))
    assert state is not None and torch.equal(state.tensors["ratios"], torch.tensor(TABLE))
    assert any(tensor.any() for name, tensor in state.tensors.items() if name not in ("ratios", "router"))


def test_a_fixed_table_of_another_model_is_refused(tiny_folder: Path) -> None:
    options = DiffCRFit.model_validate({"table": [[0.1, 0.2]] * 7})
    with pytest.raises(UserError, match="a table of 7 layers does not fit a model of"):
        DiffCR().fitting(load(str(tiny_folder)).backbone, 20, options)


def test_what_cannot_be_attributed_is_told(tiny_folder: Path, adapters: Path, tmp_path: Path) -> None:
    words: dict[str, Any] = {"model": str(tiny_folder), "adapters": adapters, "out": tmp_path / "run"}
    with pytest.raises(UserError, match=r"'tome' has no axes .*; those that have: diffcr, uniform"):
        harness.attribute("tome", ratio=0.2, **words)
    with pytest.raises(UserError, match="no adapter 'diffcr-lt-30'"):
        harness.attribute("diffcr", ratio=0.3, **words)
    with pytest.raises(UserError, match="weights were fitted under a control: name the control"):
        harness.attribute("diffcr", ratio=0.2, settings={"refitted": True}, **words)
    with pytest.raises(UserError, match="unknown control of 'diffcr' 'token': did you mean"):
        harness.attribute("diffcr", ratio=0.2, controls=["token"], **words)
    assert not (tmp_path / "run").exists()
    said: list[str] = []

    class Ear(Listener):
        def say(self, line: str) -> None:
            said.append(line)

    run = harness.attribute("diffcr", ratio=0.2, cases=4, rounds=2, steps=4, listener=Ear(), **words)
    assert said[0] == "4 images are fewer than 8: no p-values"
    assert run.attribution is not None and run.attribution["p"].isna().all()
