"""FasterCache: self-attention is extrapolated, and the unconditional half of guidance estimated."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import FasterCacheConfig, apply_faster_cache
from pydantic import Field
from torch import nn

from harness import guidance
from harness.backbones.base import Backbone
from harness.method import MethodSettings
from harness.spec import State
from methods.caching.hooks import MARK, Cache, fresh_hooks, parts_of, put_back


class FasterCacheSettings(MethodSettings):
    reusing: float = Field(
        1.0, ge=0.0, le=1.0, description="share of the sampler's steps, at the end, in which anything is reused, where "
        "its timestep is below the bounds, too",
    )  # fmt: skip
    skip: int = Field(2, ge=1, le=10, description="self-attention runs at every so many steps; 1: all runs always")
    below: float = Field(681.0, ge=0.0, le=1001.0, description="self-attention is extrapolated at timesteps below this")
    weight: float = Field(
        1.0, ge=0.0, le=2.0, description="weight of the extrapolation at the last step; it grows from 0 at the first"
    )
    unconditional: int = Field(
        5,
        ge=1,
        le=20,
        description="the unconditional half runs at every so many steps, 1: always; no effect at a skip of 1, without "
        "guidance, or where the denoiser takes tokens instead of latents",
    )
    unconditional_below: float = Field(
        641.0, ge=0.0, le=1001.0, description="the unconditional half is estimated at timesteps below this"
    )


class FasterCache(Cache):
    """Self-attention is extrapolated from its last two outputs; of the two halves of guidance, the unconditional one is
    estimated from the conditional one and their last differences at low and at high frequencies (CFG-Cache).

    As diffusers has it: the two last outputs may be extrapolated ones; with CFG-Cache, self-attention is extrapolated
    only at steps without an unconditional half. CFG-Cache needs guidance and a denoiser of latents (B, C, H, W):
    without guidance, and on LazyPixArt, which takes a list of tokens, the attention part works alone, on all samples.
    """

    name = "fastercache"
    Settings = FasterCacheSettings
    source = "Lv et al., 2024, FasterCache: Training-Free Video Diffusion Model Acceleration with High Quality"
    reuses = "parts"
    copes = frozenset({"late start"})
    strength = "reusing"
    sweep = (0.25, 0.5, 1.0)

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        settings: FasterCacheSettings = self.settings  # type: ignore[assignment]
        hooks: list[Any] = []  # the denoiser's, then those of the attention layers
        transformer = backbone.transformer
        chosen = parts_of(backbone, "self_attention")

        def timestep() -> float:
            # diffusers would extrapolate even the first step, from nothing, where its timestep is in the range
            now = backbone.step
            first = max(backbone.start + 1, now.count - round(settings.reusing * now.count))
            return now.timestep if now.index >= first else float("inf")

        def weight(_module: nn.Module) -> float:
            return settings.weight * backbone.step.index / (backbone.step.count - 1)

        def put_on() -> list[nn.Module]:
            own = vars(transformer).get("forward")
            config = FasterCacheConfig(
                spatial_attention_block_skip_range=settings.skip,
                spatial_attention_timestep_skip_range=(-1, settings.below),  # type: ignore[arg-type]
                unconditional_batch_skip_range=settings.unconditional,
                unconditional_batch_timestep_skip_range=(-1, settings.unconditional_below),  # type: ignore[arg-type]
                attention_weight_callback=weight,
                tensor_format="BCHW",
                is_guidance_distilled=True,  # until the first call has shown both halves
                current_timestep_callback=timestep,  # type: ignore[arg-type]
            )
            with _without_notice():
                apply_faster_cache(transformer, config)
            registries = [vars(one)[MARK] for one in transformer.modules() if MARK in vars(one)]
            hooks[:] = [hook for registry in registries for hook in registry.hooks.values()]
            put_back(transformer, own)  # `denoise` calls that hook, so that whatever wraps the transformer nests
            return chosen

        def denoise(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if not hooks or settings.skip == 1:
                return forward(*args, **kwargs)
            latents = guidance.first((args, kwargs))
            if backbone.step.index == backbone.start:
                alone = latents.ndim != 4 or not guidance.guided(backbone.guided, latents)
                for hook in hooks:
                    hook.is_guidance_distilled = alone
            batch = len(latents)

            def halved(*some: Any, **more: Any) -> Any:
                if len(guidance.first((some, more))) < batch:  # diffusers halves what it knows by name, and no more
                    some, more = guidance.conditional((some, more), batch)
                return forward(*some, **more)

            hooks[0].fn_ref.original_forward = halved
            given = {name: value for name, value in kwargs.items() if value is not None}  # it would halve None
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="torch.meshgrid")
                return hooks[0].new_forward(transformer, *args, **given)

        with (
            backbone.around(denoise),
            fresh_hooks(backbone, self.name, put_on),
            backbone.on_begin(hooks.clear),  # they keep what they reuse
        ):
            yield


@contextmanager
def _without_notice() -> Iterator[None]:
    """diffusers tells anew with every image that FasterCache is experimental."""
    log = logging.getLogger("diffusers.hooks.faster_cache")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
