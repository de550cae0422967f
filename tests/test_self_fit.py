"""Fits without data: on latents that the dense model generates for prompts."""

from pathlib import Path
from typing import Any

import pytest
import torch

from harness import checkpoints
from harness.errors import UserError
from harness.fitting import generated
from harness.fitting.data import data_for
from harness.fitting.generated import GeneratedData, read_prompts
from harness.fitting.options import FitOptions
from harness.fitting.request import Request
from harness.models import Model

PROMPTS = tuple(f"a red star {i}" for i in range(11))


class Stop(Exception):
    """The kill."""


def test_an_interrupted_generation_goes_on_to_the_same_bits(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generated, "_BATCH", 4)
    said: list[str] = []
    whole = GeneratedData(model, PROMPTS, tmp_path / "whole", say=said.append)
    assert "latents of 11 images for the fit: 11 to generate" in said[0] and "minutes more" in said[1]
    sample, calls = generated.prompting.sample, [0]

    def killed(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 2:
            raise Stop
        return sample(*args, **kwargs)

    monkeypatch.setattr(generated.prompting, "sample", killed)
    with pytest.raises(Stop):
        GeneratedData(model, PROMPTS, tmp_path / "cut")
    assert len(list((tmp_path / "cut").rglob("*.safetensors"))) == 1
    torch.manual_seed(99)  # what came before does not matter
    again = GeneratedData(model, PROMPTS, tmp_path / "cut", say=said.append)
    assert calls[0] == 4 and "7 to generate" in said[2]
    one, two = (data.shards.rows(range(11))["latents"] for data in (whole, again))
    assert torch.equal(one, two) and len(one) == 11 and not torch.equal(one[0], one[1])
    batches = [data.batch(3, torch.Generator().manual_seed(0)) for data in (whole, again)]
    assert torch.equal(batches[0].clean, batches[1].clean) and batches[0].clean.shape == (3, 6, 16, 16)


def test_other_prompts_and_more_latents_are_another_cache(model: Model, tmp_path: Path) -> None:
    one = GeneratedData(model, PROMPTS[:2], tmp_path)
    two = GeneratedData(model, PROMPTS[:2], tmp_path, each=2)
    other = GeneratedData(model, PROMPTS[1:3], tmp_path)
    assert len({one.cache, two.cache, other.cache}) == 3 and two.count == 4
    latents = two.shards.rows(range(4))["latents"]
    assert torch.equal(one.shards.rows(range(2))["latents"], latents[:2])  # the first of every prompt is the same
    assert not torch.equal(latents[0], latents[2])


def test_missing_prompts_are_one_line(model: Model, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give --prompts FILE, one prompt per line"):
        read_prompts(None)
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(UserError, match=r"empty\.txt is empty"):
        read_prompts(tmp_path / "empty.txt")
    with pytest.raises(UserError, match="cannot be read"):
        read_prompts(tmp_path / "absent.txt")
    with pytest.raises(UserError, match="takes a text file"):
        read_prompts(tmp_path / "captions.json")
    model.facts = {"scenes": "other"}
    with pytest.raises(UserError, match="--data self with --prompts FILE"):
        data_for(model, FitOptions.model_validate({}), trains=True, folder=None, work=tmp_path)


def test_a_fit_without_data_is_a_fit(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS[:4]))
    values = {"steps": 4, "batch": 2, "lora_rank": 2}
    request = Request("uniform", {}, (0.3,), FitOptions.model_validate(values))
    said: list[str] = []
    states = []
    for out in ("one", "two"):
        path = request.run(str(tiny_folder), tmp_path / out, prompts=tmp_path / "prompts.txt", say=said.append)[0]
        states.append(checkpoints.load(path)[0])
    assert len(said) == 1  # the second found the latents
    assert states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])
