"""TaylorSeer: outputs of attention and MLP are extrapolated between full computations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

import torch
from diffusers import TaylorSeerCacheConfig, apply_taylorseer_cache
from pydantic import Field
from torch import nn

from harness.backbones.base import Backbone
from harness.method import MethodSettings
from harness.spec import State
from methods.caching.hooks import MARK, Cache, fresh_hooks


class TaylorSeerSettings(MethodSettings):
    interval: int = Field(3, ge=1, le=10, description="steps from one full computation to the next; 1: all compute")
    predicted: float = Field(
        0.85, ge=0.0, le=0.95, description="share of the steps, at the end, in which outputs are extrapolated; the "
        "first step always computes",
    )  # fmt: skip
    order: int = Field(1, ge=0, le=4, description="order of the Taylor expansion; 0 reuses outputs as they were")


class TaylorSeer(Cache):
    """Between full computations, what attention, cross-attention and MLP add to their stream is extrapolated from the
    differences between the computed steps, the text's stream included. Full steps are the authors': those of the
    warm-up, and every `interval`-th from its last one on."""

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
        adding, feeding = zip(*(backbone.branches(layer) for layer in range(backbone.layers)), strict=True)
        predicted, idle = (list(chain.from_iterable(modules)) for modules in (adding, feeding))

        def put_on() -> list[nn.Module]:
            steps, skipped = backbone.step.count, backbone.start  # diffusers counts from the first call
            warm_up = max(1, steps - round(settings.predicted * steps) - skipped)
            config = TaylorSeerCacheConfig(
                cache_interval=settings.interval,
                disable_cache_before_step=warm_up,
                max_order=settings.order,
                taylor_factors_dtype=torch.float32,
                cache_identifiers=_pattern(backbone, predicted),
                skip_predict_identifiers=_pattern(backbone, idle),
            )
            apply_taylorseer_cache(backbone.transformer, config)
            for module in (*predicted, *idle):
                for hook in vars(module)[MARK].hooks.values():
                    hook._measure_should_compute = partial(_full, hook.state_manager, warm_up, settings.interval)
            return [*predicted, *idle]

        with fresh_hooks(backbone, self.name, put_on):
            yield


def _pattern(backbone: Backbone, modules: Sequence[nn.Module]) -> list[str]:
    """One pattern for all of them: diffusers compares each with every module's whole name, with every image."""
    wanted = {id(module) for module in modules}
    names = [re.escape(name) for name, one in backbone.transformer.named_modules() if id(one) in wanted]
    return ["|".join(names)] if names else []


@torch.compiler.disable
def _full(manager: Any, warm_up: int, interval: int) -> tuple[bool, Any]:
    """Whether the step that begins is computed, and diffusers' state, which counts it. Its own schedule predicts a
    single step behind the warm-up, whatever the interval."""
    state = manager.get_state()
    state.current_step += 1
    behind = state.current_step - (warm_up - 1)
    return behind <= 0 or behind % interval == 0, state
