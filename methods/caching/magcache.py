"""MagCache: all blocks are skipped while the calibrated change of their joint update stays small."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import MagCacheConfig, apply_mag_cache
from pydantic import Field
from torch import Tensor, nn

from harness.backbones.base import Backbone
from harness.method import CalibrationPass, Fitting, MethodSettings
from harness.spec import Call, State
from methods.caching.hooks import Cache, fresh_hooks, parts_of

_CALIBRATION_BATCHES = 8


class MagCacheSettings(MethodSettings):
    threshold: float = Field(
        0.06, ge=0.0, le=1.0, description="accumulated error up to which steps are skipped; 0: no step is"
    )
    max_skip: int = Field(3, ge=1, le=20, description="most steps skipped in a row (K)")
    retention: float = Field(0.2, ge=0.0, le=1.0, description="share of the steps, at the start, that compute")


class MagCache(Cache):
    """Skip the whole stack of blocks and add its last update again, as long as the calibrated change of the update's
    magnitude, accumulated over the skipped steps, stays small.

    Calibrated on noised training images, as every calibration here, where the authors take one generation.
    """

    name = "magcache"
    Settings = MagCacheSettings
    needs_state = True
    source = "Ma et al., 2025, MagCache: Fast Video Generation with Magnitude-Aware Cache"
    training = "calibrated"
    reuses = "blocks"
    copes = frozenset({"branches", "late start"})
    strength = "threshold"
    sweep = (0.06, 0.12, 0.24)

    def adapter(self) -> str:
        return self.name  # one calibration serves all settings

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        assert state is not None
        settings: MagCacheSettings = self.settings  # type: ignore[assignment]
        ratios = state.tensors["mag_ratios"].float().cpu()  # (calibrated steps,)

        def put_on() -> list[nn.Module]:
            left = backbone.step.count - backbone.start  # diffusers counts from the first call
            config = MagCacheConfig(
                threshold=settings.threshold,
                # an error of exactly 0 is not above a threshold of 0, and would be skipped
                max_skip_steps=settings.max_skip if settings.threshold else 0,
                retention_ratio=settings.retention,
                num_inference_steps=backbone.step.count,
                mag_ratios=ratios,
            )
            config.num_inference_steps, config.mag_ratios = left, config.mag_ratios[-left:]
            config.mag_ratios = config.mag_ratios.tolist()  # decided on numbers, not on tensors
            apply_mag_cache(backbone.transformer, config)
            return parts_of(backbone, "block")

        with fresh_hooks(backbone, self.name, put_on):
            yield

    def fitting(self, backbone: Backbone, steps: int, options: MethodSettings | None = None) -> Fitting:
        """Mean over tokens and samples of the norm of what all blocks together add, relative to the step before; 1 at
        the first step, as diffusers calibrates."""
        totals, counts = torch.zeros(steps, dtype=torch.float64), torch.zeros(steps, dtype=torch.float64)
        entered: list[Tensor] = []  # (B, N, D) what went into the first block
        before: list[Tensor] = []  # (B, N) norms of the step before

        def first(call: Call) -> Tensor:
            entered[:] = [call.x]
            return call.run(call.x)

        def last(call: Call) -> Tensor:
            out = call.run(call.x)
            norms = (out - entered[0]).float().norm(dim=-1)
            if call.step.index and before:
                totals[call.step.index] += float((norms / (before[0] + 1e-8)).mean(dim=1).sum())
                counts[call.step.index] += len(norms)
            before[:] = [norms]
            return out

        def calibrate(watch: CalibrationPass) -> None:
            with backbone.advise("block", first, [0]), backbone.advise("block", last, [backbone.layers - 1]):
                watch(full_trajectory=True, batches=_CALIBRATION_BATCHES)
            entered.clear()
            before.clear()

        def state() -> State:
            ratios = torch.where(counts > 0, totals / counts.clamp(min=1), 1.0)
            return State({"mag_ratios": ratios.float()}, {"steps": steps, "samples": int(counts.max())})

        return Fitting(module=nn.Module(), calibrate=calibrate, state=state, trains=False)
