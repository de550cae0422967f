"""The hand formulas against torch's and fvcore's counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from harness.measure import flops
from harness.measure.torch_counter import counting
from tests.measure import hand_formulas_pixart as analytic

LATENT, TEXT = 16, 12


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_additional_conditions": True, "attention_head_dim": 24, "cross_attention_dim": 48},
        {"caption_channels": 40, "num_layers": 1, "out_channels": None},
    ],
)
def test_both_columns_of_a_tiny_pixart(make_pixart: Callable[..., Any], generate: Any, changes: dict[str, Any]) -> None:
    model = make_pixart(**changes)
    counted = flops.count(model, lambda: generate(model, steps=1), images=1)
    linear = analytic.pixart_macs(model.config, None, TEXT, LATENT, fused_attention=False)
    paper = linear + analytic.pixart_norm_macs(model.config, LATENT)
    assert counted.gmacs == pytest.approx(2e-9 * analytic.pixart_macs(model.config, None, TEXT, LATENT), rel=1e-9)
    assert counted.gmacs_paper == pytest.approx(2e-9 * paper, rel=5e-3)
    assert counted.unknown == ()


def test_xl2_has_the_known_cost(make_pixart: Callable[..., Any]) -> None:
    """PixArt-Sigma XL/2 at 512 x 512: 617.99 GMACs with attention, 542.42 without (542.40 linear)."""
    xl2 = {
        "num_attention_heads": 16,
        "attention_head_dim": 72,
        "num_layers": 28,
        "cross_attention_dim": 1152,
        "sample_size": 64,
        "caption_channels": 4096,
    }
    with torch.device("meta"), torch.no_grad():
        model = make_pixart(**xl2)
        with counting() as executed:
            model(
                torch.empty(1, 4, 64, 64),
                encoder_hidden_states=torch.empty(1, 120, 4096),
                timestep=torch.empty(1, dtype=torch.long),
                added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            )
    total = analytic.pixart_macs(model.config, None, 120, 64)
    assert executed.total == total
    assert total / 1e9 == pytest.approx(617.99, rel=1e-3)
    linear = analytic.pixart_macs(model.config, None, 120, 64, fused_attention=False)
    assert linear / 1e9 == pytest.approx(542.4, rel=1e-3)
    assert executed.macs["aten.addmm"] / 1e9 == pytest.approx(542.40, rel=1e-4)
    assert analytic.pixart_norm_macs(model.config, 64) / 1e9 == pytest.approx(0.27, rel=1e-2)


def test_a_dropped_token_saves_fourteen_squares(make_pixart: Callable[..., Any]) -> None:
    config = make_pixart().config
    dense = analytic.pixart_macs(config, None, TEXT, LATENT, fused_attention=False)
    fewer = analytic.pixart_macs(config, [63, 64, 64], TEXT, (LATENT, LATENT), fused_attention=False)
    assert dense - fewer == 14 * 32**2


def test_layers_must_match(make_pixart: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="2 entries for 3 layers"):
        analytic.pixart_macs(make_pixart().config, [64, 64], TEXT, LATENT)
