"""Models by hub id, from a cache, and folders whose parts do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants, errors
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from harness.cli import app
from harness.config import build
from harness.errors import UserError
from harness.models import hub, load
from harness.models.loading import digest_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache that holds someone/tiny: files are links to blobs, weights named by their sha256."""
    import hashlib

    home = tmp_path / "hub" / "models--someone--tiny"
    (home / "refs").mkdir(parents=True)
    (home / "blobs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    for path in tiny_folder.rglob("*"):
        if path.is_file():
            blob = home / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
            shutil.copy(path, blob)
            link = home / "snapshots" / COMMIT / path.relative_to(tiny_folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return home


def test_a_cached_model_loads_by_its_id(cached: Path, tiny_folder: Path) -> None:
    model, local = load("someone/tiny"), load(str(tiny_folder))
    assert model.digest == local.digest and model.kind == "PixArtSigmaPipeline"
    ours, theirs = model.backbone.transformer.state_dict(), local.backbone.transformer.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert load("someone/tiny", revision=COMMIT).digest == model.digest


def test_what_is_not_cached_is_said(cached: Path) -> None:
    with pytest.raises(UserError, match=r"'someone/other' is not in the local cache .* the hub is off: set HF_HUB_OFF"):
        load("someone/other")
    with pytest.raises(UserError, match=r"'someone/tiny' at revision 'v2' is not in the local cache"):
        load("someone/tiny", revision="v2")
    with pytest.raises(UserError, match="does not exist; expected a folder"):
        load("a/b/c")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errors.GatedRepoError, "is gated: accept its terms"),
        (errors.RepositoryNotFoundError, "does not exist on the hub, or is private"),
        (errors.RevisionNotFoundError, "has no revision 'v9' on the hub"),
        (errors.RemoteEntryNotFoundError, "holds no model_index.json"),
        (errors.LocalEntryNotFoundError, "the hub cannot be reached: check the network"),
        (ConnectionError, "cannot be fetched from the hub: no route"),
    ],
)
def test_what_the_hub_answers_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], said: str
) -> None:
    """The answers alone are made up here: nothing reaches a network."""
    from diffusers import DiffusionPipeline

    def download(*_args: object, **_options: object) -> str:
        if issubclass(error, errors.HfHubHTTPError):
            raise error("no route", response=SimpleNamespace(headers={}, status_code=403, request=None))  # type: ignore[call-arg]
        raise error("no route")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(DiffusionPipeline, "download", download)
    with pytest.raises(UserError, match=said) as told:
        hub.snapshot("someone/tiny", revision="v9")
    assert len(str(told.value).splitlines()) == 1


@pytest.fixture
def copy(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


def test_weights_that_do_not_fit_their_config_are_told(copy: Path) -> None:
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    whole = load_file(weights)
    first = "transformer_blocks.0.attn1.to_q.weight"
    cases = {
        "lacks transformer_blocks.0.attn1.to_q.weight": {k: v for k, v in whole.items() if k != first},
        "should not have, extra.weight": whole | {"extra.weight": torch.zeros(2)},
        "cannot be loaded": whole | {first: torch.zeros(3, 3)},
    }
    for said, tensors in cases.items():
        save_file(tensors, weights, metadata={"format": "pt"})
        with pytest.raises(UserError, match=said) as told:
            _ = load(str(copy)).pipeline
        assert len(str(told.value).splitlines()) == 1
    save_file(whole, weights, metadata={"format": "pt"})
    _ = load(str(copy)).pipeline


def test_a_text_encoder_that_lacks_weights_is_told(copy: Path) -> None:
    weights = copy / "text_encoder" / "model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if "layer.0.SelfAttention.q" in name)
    save_file({k: v for k, v in tensors.items() if k != name}, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"text_encoder do not fit its config\.json: the file lacks encoder"):
        _ = load(str(copy)).pipeline


def test_bad_weights_end_the_command_with_one_line(copy: Path, tmp_path: Path) -> None:
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors.pop("proj_out.bias")
    save_file(tensors, weights, metadata={"format": "pt"})
    config = ["run", "--model", str(copy), "--methods", "tome", "--cases", "2", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, config)
    (line,) = result.stderr.split("\n")[-2:-1]
    assert result.exit_code == 2 and line.startswith("error: the weights in ") and "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_variants(copy: Path) -> None:
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(UserError, match="no weights of variant 'fp16'; leave --variant out"):
        load(str(copy), variant="fp16")
    before = digest_of(copy)
    tensors = {name: (2 * value).half() for name, value in load_file(weights).items()}
    save_file(tensors, weights.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
    plain, half = load(str(copy)), load(str(copy), variant="fp16", dtype="float16")
    assert len({before, plain.digest, half.digest}) == 3
    name = "transformer_blocks.0.attn1.to_q.weight"
    assert torch.equal(half.backbone.transformer.state_dict()[name], tensors[name])
    assert torch.equal(plain.backbone.transformer.state_dict()[name], load_file(weights)[name])
    assert next(half.pipeline.text_encoder.parameters()).dtype == torch.float16
    with pytest.raises(UserError, match="--revision is for models on the hub"):
        load(str(copy), revision="main")
    sweep = build({"methods": "tome", "model": str(copy), "variant": "fp16"})
    assert sweep.run_name() != build({"methods": "tome", "model": str(copy)}).run_name()


def test_only_safetensors_load(copy: Path) -> None:
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(UserError, match=r"cannot be loaded: .*safetensors"):
        _ = load(str(copy)).pipeline


def test_unknown_and_older_classes(copy: Path) -> None:
    path = copy / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps(index | {"transformer": ["diffusers", "Transformer2DModel"]}))
    assert load(str(copy)).family.__name__ == "PixArt"  # its config says ada_norm_single
    _ = load(str(copy)).pipeline
    path.write_text(json.dumps(index | {"transformer": ["diffusers", "LuminaNextDiT2DModel"]}))
    with pytest.raises(
        UserError, match=r"no backbone serves LuminaNextDiT2DModel; .*harness\.backbones: see docs/back"
    ):
        load(str(copy))
