"""Damaged facts of a model or an adapter are one line; a few words in them are honoured."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import harness
from harness import plan
from harness.config import build
from harness.errors import UserError
from harness.models import load

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("model_index.json", "{", "is no JSON"),
        ("model_index.json", DEEP, "nested too deeply"),
        ("model_index.json", "[]", "holds no JSON object"),
        ("model_index.json", '{"transformer": 3}', "no backbone serves"),
        ("harness.json", "{", "is no JSON"),
        ("harness.json", "[]", "expected names with values"),
        ("harness.json", '{"defaults": 3}', "defaults: "),
        ("harness.json", '{"defaults": {"steps": "many"}}', "defaults.steps: "),
        ("harness.json", '{"defaults": {"stepz": 3}}', "stepz"),
        ("harness.json", '{"call": []}', "call: "),
        ("harness.json", '{"call": {"negative_prompt": 3}}', "call.negative_prompt: "),
        ("harness.json", '{"call": {"prompt": "mine"}}', "prompt is given by the harness itself"),
        ("harness.json", '{"fit": 3}', "fit: "),
    ],
)
def test_damaged_facts_of_a_model(
    name: str, text: str, said: str, refused: Callable[..., str], tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(tiny_folder, folder)
    (folder / name).write_text(text)
    line = refused("run", "--model", "pipeline/", "--methods", "tome")
    assert said in line and ("pipeline" in line or "backbone" in line)


def test_labels_that_are_none(refused: Callable[..., str], tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(tiny_folder, folder)
    index = json.loads((folder / "model_index.json").read_text())
    for labels in ({"one": "cat"}, 3, ["cat"]):
        (folder / "model_index.json").write_text(json.dumps(index | {"id2label": labels}))
        assert "id2label" in refused("run", "--model", "pipeline/", "--methods", "tome")


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"facts": "{"}, "is damaged"),
        ({"facts": "[1]"}, "its facts are no names and values"),
        ({"facts": DEEP}, "is damaged"),
        ({"facts": '{"method": "diffcr", "settings": 3}'}, "adapter"),
        ({"facts": '{"method": "diffcr", "settings": {"ratio": "much"}}'}, "ratio: "),
    ],
)
def test_damaged_facts_of_an_adapter(
    metadata: dict[str, str], said: str, refused: Callable[..., str], tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "adapters").mkdir()
    save_file({"x": torch.zeros(1)}, tmp_path / "adapters" / "diffcr-20.safetensors", metadata=metadata)
    line = refused("run", "--model", str(tiny_folder), "--adapters", "adapters", "--methods", "diffcr@trajectory")
    assert said in line and "diffcr-20.safetensors" in line


def test_a_negative_prompt_in_the_call_is_what_guidance_leads_away_from(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(tiny_folder, folder)
    notes = json.loads((folder / "harness.json").read_text())
    images = []
    for words in (None, "", "a red circle"):
        notes["call"] |= {} if words is None else {"negative_prompt": words}
        (folder / "harness.json").write_text(json.dumps(notes))
        model = load(str(folder))
        (made,) = plan.make(build({"model": str(folder), "cases": 2, "methods": "dense", "metrics": "paired"}), model)
        images.append(made.opened.task.generate(made.opened.cases[:1]))
    own = model.pipeline(
        prompt=[made.opened.cases[0].prompt], negative_prompt="a red circle", num_inference_steps=4, guidance_scale=2.0,
        generator=[torch.Generator().manual_seed(0)], output_type="pt", **model.call,
    ).images  # fmt: skip
    assert torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])
    assert torch.allclose(images[2], own, atol=1e-4)


def test_precision_refuses_what_is_compiled(tiny_folder: Path) -> None:
    pipeline = load(str(tiny_folder)).pipeline
    pipeline.transformer.compile(backend="eager")
    with pytest.raises(UserError, match="precision cannot run on a pipeline that is compiled"):
        harness.apply(pipeline, "precision")
