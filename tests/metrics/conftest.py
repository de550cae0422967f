"""Tiny networks of the true kinds, and photographs, for the tests of metrics."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from samples import WORDS
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
)

from tasks.metrics import inception, lpips


class Pooled(nn.Module):
    """What stands in for Inception's weights: the same calls, as clean-fid makes them, but hardly any work."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(3 * 16, inception.WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.project(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1))[:, :, None, None]


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = Pooled()


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("inception") / inception.FILE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Base().eval()).save(str(path))
    return path


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP itself, untrained and tiny, with a tokenizer whose words are single characters."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip") / "tiny-clip"
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocab = {t: i for i, t in enumerate([*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"])}
    end = vocab["<|endoftext|>"]
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    text = CLIPTextConfig(vocab_size=len(vocab), max_position_embeddings=20, **special, **shape)
    vision = CLIPVisionConfig(image_size=32, patch_size=8, **shape)
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16))
    model.save_pretrained(folder)
    tokenizer = CLIPTokenizer(vocab=vocab, merges=[], model_max_length=20)
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(pictures, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of several sizes with captions."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    lines = []
    for i in range(6):
        pixels = rng.integers(256, size=(40 + 8 * (i % 3), 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"a {WORDS[i % 2]} {WORDS[2 + i % 2]}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def lpips_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From files of the published forms, with random numbers in them."""
    from torchvision import models

    folder = tmp_path_factory.mktemp("lpips")
    torch.manual_seed(0)
    net = models.alexnet()
    torch.save(net.state_dict(), folder / "net.pth")
    torch.save({f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate(lpips.CHANNELS["alex"])},
               folder / "linear.pth")  # fmt: skip
    assert lpips.convert(folder / "net.pth", folder / "linear.pth", folder / "out.safetensors") == "alex"
    return folder / "out.safetensors"
