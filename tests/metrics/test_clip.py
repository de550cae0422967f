"""Scores from CLIP: the model's own figures, and folders that hold none."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from samples import sample
from transformers import (
    CLIPModel,
    CLIPProcessor,
)

from harness import config
from harness.errors import UserError
from harness.models import Model
from tasks.metrics import clip
from tasks.metrics.clip_score import ClipScore


def test_clip_score_is_the_models_own_cosine(clip_folder: Path, model: Model) -> None:
    metric = ClipScore(model, config.metric_settings_of(ClipScore, {"model": str(clip_folder)}))  # type: ignore[arg-type]
    metric.check()
    judged = sample(4)
    found = metric.estimates(judged, None)["clip_score[tiny-clip]"]
    processor, network = CLIPProcessor.from_pretrained(clip_folder), CLIPModel.from_pretrained(clip_folder)
    images, texts = [Image.fromarray(i) for i in judged.images], [case.prompt for case in judged.cases]
    with torch.no_grad():
        out = network(**processor(text=texts, images=images, return_tensors="pt", padding=True))
    wanted = (out.image_embeds * out.text_embeds).sum(-1)
    assert found.value == pytest.approx(float(wanted.mean()), abs=1e-5)
    assert found.n == 4 and found.better == "higher" and "not multiplied by 100" in found.convention
    assert found.low is not None and found.low <= found.value


def test_clip_embeddings(clip_folder: Path) -> None:
    opened, cpu = clip.open_(str(clip_folder)), torch.device("cpu")
    texts = ["a star", "a star", "a red circle " * 9]
    embedded = opened.texts(texts, cpu)
    assert np.allclose((embedded[0] * embedded[1]).sum(), 1) and np.allclose(np.linalg.norm(embedded, axis=1), 1)
    assert (embedded[0] * embedded[2]).sum() < 1 - 1e-6
    assert np.allclose(embedded[:1], opened.texts(texts[:1], cpu), atol=1e-6)  # padding changes nothing
    images = list(np.random.default_rng(0).integers(256, size=(3, 40, 56, 3), dtype=np.uint8))
    together = opened.images(images, cpu)
    assert np.allclose(together[2:], opened.images(images[2:], cpu), atol=1e-6)
    channels_last_or_first = np.random.default_rng(0).integers(256, size=(1, 3, 40, 3), dtype=np.uint8)
    assert opened.images(channels_last_or_first, cpu).shape == (1, 16)


def test_bad_clip_folders(clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'nobody/nothing' is neither a folder nor in the local hub cache.*hf download"):
        clip.open_("nobody/nothing")
    with pytest.raises(UserError, match=r"CLIP folder \./no where/at/all does not exist"):
        clip.open_("./no where/at/all")
    with pytest.raises(UserError, match=r"holds no \*\.safetensors"):
        clip.open_(str(tmp_path))
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in clip_folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(UserError, match="weights file of .* is damaged"):
        clip.open_(str(broken))
    (broken / "model.safetensors").write_bytes((clip_folder / "model.safetensors").read_bytes())
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        (broken / name).unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"has no tokenizer: expected tokenizer\.json"):
        clip.open_(str(broken))
    (broken / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="processor in CLIP folder .* cannot be loaded"):
        clip.open_(str(broken))
    for file in broken.glob("*processor_config.json"):
        file.unlink()
    with pytest.raises(UserError, match="has no image processor"):
        clip.open_(str(broken))
    settings = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**settings, "model_type": "siglip"}))
    with pytest.raises(UserError, match="of type 'siglip'; expected 'clip'"):
        clip.open_(str(broken))
