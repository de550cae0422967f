"""TaylorSeer: outputs of attention and MLP are extrapolated between full computations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import TaylorSeerCacheConfig, apply_taylorseer_cache
from pydantic import Field
from torch import nn

from harness.backbones.base import Backbone
from harness.method import MethodSettings
from harness.spec import State
from methods.caching.hooks import Cache, fresh_hooks, parts_of


class TaylorSeerSettings(MethodSettings):
    interval: int = Field(3, ge=1, le=10, description="steps from one full computation to the next; 1: all compute")
    predicted: float = Field(
        0.85, ge=0.0, le=0.95, description="share of the steps, at the end, in which outputs are extrapolated; the "
        "first step always computes",
    )  # fmt: skip
    order: int = Field(1, ge=0, le=4, description="order of the Taylor expansion; 0 reuses outputs as they were")


class TaylorSeer(Cache):
    """Between full computations, every attention, cross-attention and MLP output is extrapolated from the differences
    between the computed steps. Blocks that fuse attention and MLP (Flux's single ones) have their attention alone
    extrapolated."""

    name = "taylorseer"
    Settings = TaylorSeerSettings
    source = "Liu et al., 2025, From Reusable to Forecasting: Accelerating Diffusion Models with TaylorSeers"
    reuses = "parts"
    copes = frozenset({"branches", "late start"})
    strength = "predicted"
    sweep = (0.3, 0.6, 0.85)

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        settings: TaylorSeerSettings = self.settings  # type: ignore[assignment]
        chosen = parts_of(backbone, "self_attention", "mlp", "cross_attention")

        def put_on() -> list[nn.Module]:
            wanted = {id(module) for module in chosen}
            # diffusers' default patterns match no module: they are compared with whole names. One pattern for all: it
            # tries each on every module, with every image.
            names = [re.escape(name) for name, one in backbone.transformer.named_modules() if id(one) in wanted]
            steps, skipped = backbone.step.count, backbone.start  # diffusers counts from the first call
            config = TaylorSeerCacheConfig(
                cache_interval=settings.interval,
                disable_cache_before_step=max(1, steps - round(settings.predicted * steps) - skipped),
                max_order=settings.order,
                taylor_factors_dtype=torch.float32,
                cache_identifiers=["|".join(names)],
            )
            apply_taylorseer_cache(backbone.transformer, config)
            return chosen

        with fresh_hooks(backbone, self.name, put_on):
            yield
