"""The bundled model `emoji`: its recipe."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from packing import Stop, packed

from harness.cli.options import validated
from harness.errors import UserError
from harness.models import Model, load
from harness.zoo.emoji import make
from harness.zoo.emoji.stages.batches import Images
from harness.zoo.emoji.stages.dit import Student

CPU = torch.device("cpu")


def _stop(*_: Any, **__: Any) -> Any:
    raise Stop


def _student(model: Model) -> Student:
    return Student(model.pipeline.text_encoder, model.pipeline.transformer)


def test_the_recipe_makes_a_model_that_resumes_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = packed(tmp_path / "data")
    tiny = {"vae_steps": 2, "vae_batch": 2, "vae_width": 8, "batch": 2, "width": 32, "layers": 1, "save_seconds": 0}
    recipe = validated(make.Recipe, {**tiny, "steps": 4})

    def made(name: str, **given: Any) -> dict[str, Any]:
        folder = tmp_path / name
        make.make(recipe, folder, folder, Accelerator(cpu=True), data=data, **given)
        state: dict[str, Any] = load(str(folder / "pipeline")).pipeline.transformer.state_dict()
        return state

    whole, draw, calls = made("whole"), Images.draw, [0]

    def killed(self: Images, count: int, generator: torch.Generator) -> Any:
        calls[0] += 1
        if calls[0] == 6:  # two for the VAE, one for the spread of its latents, the third of the DiT
            raise Stop
        return draw(self, count, generator)

    monkeypatch.setattr(Images, "draw", killed)
    with pytest.raises(Stop):
        made("cut")
    again = made("cut")
    assert calls[0] == 9  # the spread, and the third and fourth step
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    made("cut")  # everything is finished: the folder is written again, the same
    assert load(str(tmp_path / "cut" / "pipeline")).digest == load(str(tmp_path / "whole" / "pipeline")).digest
    further = made("further", start=tmp_path / "whole" / "pipeline")
    assert any(not torch.equal(whole[name], further[name]) for name in whole)
    loaded = load(str(tmp_path / "further" / "pipeline"))
    assert loaded.facts["scenes"] == "emoji" and json.loads((tmp_path / "further/pipeline/vae/config.json").read_text())
    before = (tmp_path / "whole/pipeline/harness.json").read_bytes()
    with monkeypatch.context() as patched:  # killed while it takes the place of what it started from
        patched.setattr(json, "dumps", _stop)
        with pytest.raises(Stop):
            make.save(_student(loaded), loaded.pipeline.vae, loaded.pipeline.tokenizer, tmp_path / "whole")
    assert (tmp_path / "whole/pipeline/harness.json").read_bytes() == before
    kept = load(str(tmp_path / "whole" / "pipeline")).pipeline.transformer.state_dict()
    assert all(torch.equal(whole[name], kept[name]) for name in whole)
    longer = validated(make.Recipe, {**tiny, "steps": 5})
    with pytest.raises(UserError, match=r"whole/emoji holds a training with other settings \(steps=4, not 5\)"):
        make.make(longer, tmp_path / "whole", tmp_path, Accelerator(cpu=True), data=data)
    with pytest.raises(UserError, match="give --data FOLDER"):
        make.make(recipe, tmp_path, tmp_path, Accelerator(cpu=True))
    with pytest.raises(UserError, match=r"no pipeline folder to train from"):
        make.make(recipe, tmp_path, tmp_path, Accelerator(cpu=True), data=data, start=tmp_path)
