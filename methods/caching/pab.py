"""Pyramid Attention Broadcast: attention outputs are reused at the steps between computed ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from diffusers import PyramidAttentionBroadcastConfig, apply_pyramid_attention_broadcast
from pydantic import Field, model_validator
from torch import nn

from harness.backbones.base import Backbone
from harness.method import MethodSettings
from harness.spec import State
from methods.caching.hooks import Cache, fresh_hooks, parts_of


class PABSettings(MethodSettings):
    skip: int = Field(2, ge=1, le=10, description="self-attention runs at every so many steps; 1: all runs always")
    cross: int = Field(
        3, ge=1, le=10, description="cross-attention runs so many times more rarely than self-attention (paper: 3)"
    )
    above: float = Field(100.0, ge=-1.0, le=1000.0, description="outputs are reused at timesteps above this")
    below: float = Field(800.0, ge=0.0, le=1001.0, description="outputs are reused at timesteps below this")

    @model_validator(mode="after")
    def _range(self) -> PABSettings:
        if self.above >= self.below:
            raise ValueError(f"the range of timesteps is empty: above {self.above:g}, below {self.below:g}")
        return self


class PAB(Cache):
    """Pyramid Attention Broadcast: self-attention gives its last computed output at the steps between, in the middle of
    the sampling; cross-attention, which changes less, does so for longer."""

    name = "pab"
    Settings = PABSettings
    source = "Zhao et al., 2024, Real-Time Video Generation with Pyramid Attention Broadcast"
    reuses = "parts"
    copes = frozenset({"late start"})
    strength = "skip"
    sweep = (2, 3, 4)

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        settings: PABSettings = self.settings  # type: ignore[assignment]
        within = (settings.above, settings.below)
        own, cross = parts_of(backbone, "self_attention"), parts_of(backbone, "cross_attention")

        def put_on() -> list[nn.Module]:
            config = PyramidAttentionBroadcastConfig(
                spatial_attention_block_skip_range=settings.skip,
                cross_attention_block_skip_range=settings.skip * settings.cross if settings.skip > 1 else 1,
                spatial_attention_timestep_skip_range=within,  # type: ignore[arg-type]
                cross_attention_timestep_skip_range=within,  # type: ignore[arg-type]
                current_timestep_callback=lambda: backbone.step.timestep,  # type: ignore[arg-type,return-value]
            )
            apply_pyramid_attention_broadcast(backbone.transformer, config)
            return own + cross

        with fresh_hooks(backbone, self.name, put_on):
            yield
