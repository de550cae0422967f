"""A tiny PixArt transformer, and how to call it as a pipeline does."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
LATENT, TEXT = 16, 12


@pytest.fixture(scope="session")
def _pixart_class() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers import PixArtTransformer2DModel
    return PixArtTransformer2DModel


@pytest.fixture
def make_pixart(_pixart_class: Any) -> Callable[..., Any]:
    """A factory of PixArt transformers: 3 layers, width 32, 64 tokens, unless said otherwise."""

    def make(**changes: Any) -> Any:
        tiny = {
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "num_layers": 3,
            "cross_attention_dim": 32,
            "sample_size": LATENT,
            "caption_channels": 24,
            "use_additional_conditions": False,
        }
        return _pixart_class(**(tiny | changes)).eval()

    return make


@pytest.fixture
def pixart(make_pixart: Callable[..., Any]) -> Any:
    return make_pixart()


@pytest.fixture
def generate() -> Callable[..., None]:
    """`generate(model, steps, batch)`: call the model as a pipeline would, once per step, with CFG as one batch."""

    def run(model: Any, steps: int = 2, batch: int = 2) -> None:
        generator = torch.Generator().manual_seed(0)
        config = model.config
        x = torch.randn(batch, config.in_channels, LATENT, LATENT, generator=generator)  # (B, C, H, W)
        text = torch.randn(batch, TEXT, config.caption_channels, generator=generator)  # (B, M, D)
        sizes: dict[str, Any] = {"resolution": None, "aspect_ratio": None}
        if model.use_additional_conditions:
            sizes = {"resolution": torch.full((batch, 2), 64.0), "aspect_ratio": torch.ones(batch, 1)}
        for step in range(steps):
            model(
                x,
                encoder_hidden_states=text,
                encoder_attention_mask=torch.ones(batch, TEXT),
                timestep=torch.full((batch,), step),
                added_cond_kwargs=sizes,
                return_dict=False,
            )

    return run
