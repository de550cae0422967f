"""Training-free caches across sampling steps, through diffusers' own implementations.

Each image gets fresh hooks, and so a fresh state; `fresh_hooks` takes them off again. They go around whatever other
methods have put on a module. Decisions are diffusers': one for the whole batch.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import torch
from diffusers import (
    CacheMixin,
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
    apply_faster_cache,
    apply_first_block_cache,
    apply_mag_cache,
    apply_pyramid_attention_broadcast,
    apply_taylorseer_cache,
)
from pydantic import Field, model_validator
from torch import Tensor, nn

from harness import guidance
from harness.backbones.base import Backbone
from harness.errors import UserError
from harness.method import Fitting, Method, MethodSettings, Watch
from harness.spec import Call, Part, State

_MARK = "_diffusers_hook"
_CALIBRATION_BATCHES = 8


@contextmanager
def fresh_hooks(backbone: Backbone, name: str, put_on: Callable[[], Iterable[nn.Module]]) -> Iterator[None]:
    """Whenever an image starts, `put_on()` puts diffusers' hooks onto the transformer's modules and says which modules
    must carry one; those of the image before go first, and the last ones on the way out.

    Raises UserError where modules carry such hooks already, when a one-step image starts, and where a module that
    should carry a hook has none.
    """
    _refuse_foreign(backbone, name)
    image = ExitStack()

    def begin() -> None:
        image.close()
        if backbone.step.count < 2:
            raise UserError(f"{name} needs at least two sampling steps: with one there is nothing to reuse")
        image.enter_context(_hooked(backbone, name, put_on))

    with ExitStack() as stack:
        stack.callback(image.close)
        stack.enter_context(backbone.on_step(lambda _step: None))  # the clock runs, though nothing is advised
        stack.enter_context(backbone.on_begin(begin))
        yield


@contextmanager
def _hooked(backbone: Backbone, name: str, put_on: Callable[[], Iterable[nn.Module]]) -> Iterator[None]:
    """Hooks for one image. Afterwards every module has the `forward` of before, in its place, or none of its own."""
    _refuse_foreign(backbone, name)
    modules = list(backbone.transformer.modules())
    before = [vars(module).get("forward") for module in modules]
    placed = before
    try:
        try:
            expected = put_on()
        except ValueError as error:  # diffusers knows block classes by name
            raise UserError(f"{name} cannot run on {type(backbone.transformer).__name__}: {error}") from None
        finally:
            placed = [vars(module).get("forward") for module in modules]
        if any(_MARK not in vars(module) for module in expected):
            raise UserError(f"{name}: diffusers finds not all of {type(backbone.transformer).__name__}'s parts")
        with CacheMixin.cache_context(backbone.transformer, "image"):  # type: ignore[arg-type]
            yield
    finally:
        for module, old, new in zip(modules, before, placed, strict=True):
            if new is not old and vars(module).get("forward") is new:  # else somebody else has taken it off already
                _put_back(module, old)
            vars(module).pop(_MARK, None)


def _put_back(module: nn.Module, forward: Callable[..., Any] | None) -> None:
    """Make this the module's own `forward`; None: it has none and uncovers its class's."""
    if forward is not None:
        module.forward = forward  # type: ignore[method-assign]
    elif "forward" in vars(module):
        del module.forward


def _refuse_foreign(backbone: Backbone, name: str) -> None:
    for where, module in backbone.transformer.named_modules():
        if _MARK in vars(module):
            raise UserError(
                f"{name}: {where or 'the transformer'} carries a diffusers hook already; take it off first, for "
                "instance with disable_cache()"
            )


def _parts(backbone: Backbone, *parts: Part) -> list[nn.Module]:
    """These parts of all layers that have them."""
    layers = range(backbone.layers)
    return [backbone.module(layer, part) for layer in layers for part in parts if part in backbone.parts_of(layer)]


class Cache(Method):
    """What all caches here share: hooks, outside of any part's advice."""

    parts = frozenset()
    rank = 1
    least_steps = 2
    refuses: ClassVar[Mapping[str, str]] = {
        "compile": "diffusers' caches count steps and decide in Python, and each image gets fresh ones: torch.compile "
        "would compile anew all the time"
    }


# -- whole blocks ------------------------------------------------------------------------------------------------


class FBCacheSettings(MethodSettings):
    threshold: float = Field(
        0.15,
        ge=0.0,
        le=1.0,
        description="the blocks after the first are skipped where the first one's update differs from the last "
        "computed step's by at most this, relative to its mean absolute value",
    )


class FBCache(Cache):
    """First-Block-Cache: what the first block adds tells whether the other blocks run. If it has hardly changed since
    they last did, their joint update of then is added again. One decision serves the whole batch: images made in
    batches differ a little from those made one by one, on which latency and FLOPs are measured."""

    name = "fbcache"
    Settings = FBCacheSettings
    source = "Cheng, 2024, ParaAttention's First Block Cache, after Liu et al., 2024, TeaCache"
    reuses = "blocks"
    strength = "threshold"
    sweep = (0.06, 0.1, 0.2)

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        settings: FBCacheSettings = self.settings  # type: ignore[assignment]
        if backbone.layers < 2:
            raise UserError("fbcache needs at least two blocks")

        def put_on() -> list[nn.Module]:
            apply_first_block_cache(backbone.transformer, FirstBlockCacheConfig(threshold=settings.threshold))
            return _parts(backbone, "block")

        def idle(call: Call) -> Tensor:
            return call.run(call.x)

        # A joint family's last block may give no text, which diffusers would subtract from; under advice it does.
        with backbone.advise("block", idle, [backbone.layers - 1]), fresh_hooks(backbone, self.name, put_on):
            yield


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
            config = MagCacheConfig(
                threshold=settings.threshold,
                # an error of exactly 0 is not above a threshold of 0, and would be skipped
                max_skip_steps=settings.max_skip if settings.threshold else 0,
                retention_ratio=settings.retention,
                num_inference_steps=backbone.step.count,
                mag_ratios=ratios,
            )
            config.mag_ratios = config.mag_ratios.tolist()  # decided on numbers, not on tensors
            apply_mag_cache(backbone.transformer, config)
            return _parts(backbone, "block")

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

        def calibrate(watch: Watch) -> None:
            with backbone.advise("block", first, [0]), backbone.advise("block", last, [backbone.layers - 1]):
                watch(along=True, batches=_CALIBRATION_BATCHES)
            entered.clear()
            before.clear()

        def state() -> State:
            ratios = torch.where(counts > 0, totals / counts.clamp(min=1), 1.0)
            return State({"mag_ratios": ratios.float()}, {"steps": steps, "samples": int(counts.max())})

        return Fitting(module=nn.Module(), calibrate=calibrate, state=state, trains=False)


# -- parts of blocks ---------------------------------------------------------------------------------------------


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
    strength = "skip"
    sweep = (2, 3, 4)

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        settings: PABSettings = self.settings  # type: ignore[assignment]
        within = (settings.above, settings.below)
        own, cross = _parts(backbone, "self_attention"), _parts(backbone, "cross_attention")

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
    strength = "predicted"
    sweep = (0.3, 0.6, 0.85)

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        settings: TaylorSeerSettings = self.settings  # type: ignore[assignment]
        chosen = _parts(backbone, "self_attention", "mlp", "cross_attention")

        def put_on() -> list[nn.Module]:
            wanted = {id(module) for module in chosen}
            # diffusers' default patterns match no module: they are compared with whole names
            names = [re.escape(name) for name, one in backbone.transformer.named_modules() if id(one) in wanted]
            steps = backbone.step.count
            config = TaylorSeerCacheConfig(
                cache_interval=settings.interval,
                disable_cache_before_step=max(1, steps - round(settings.predicted * steps)),
                max_order=settings.order,
                taylor_factors_dtype=torch.float32,
                cache_identifiers=names,
            )
            apply_taylorseer_cache(backbone.transformer, config)
            return chosen

        with fresh_hooks(backbone, self.name, put_on):
            yield


class FasterCacheSettings(MethodSettings):
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
    Where it is unknown whether batches hold both halves, each image's first one tells: its halves are then equal.
    """

    name = "fastercache"
    Settings = FasterCacheSettings
    source = "Lv et al., 2024, FasterCache: Training-Free Video Diffusion Model Acceleration with High Quality"
    reuses = "parts"
    strength = "skip"
    sweep = (2, 3, 4)

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        settings: FasterCacheSettings = self.settings  # type: ignore[assignment]
        hooks: list[Any] = []  # the denoiser's, then those of the attention layers
        transformer = backbone.transformer
        chosen = _parts(backbone, "self_attention")

        def timestep() -> float:
            # diffusers would extrapolate even the first step, from nothing, where its timestep is in the range
            return backbone.step.timestep if backbone.step.index > 0 else float("inf")

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
            registries = [vars(one)[_MARK] for one in transformer.modules() if _MARK in vars(one)]
            hooks[:] = [hook for registry in registries for hook in registry.hooks.values()]
            _put_back(transformer, own)  # `denoise` calls that hook, so that whatever wraps the transformer nests
            return chosen

        def denoise(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if not hooks or settings.skip == 1:
                return forward(*args, **kwargs)
            latents = guidance.first((args, kwargs))
            if backbone.step.index == 0:
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

        with backbone.around(denoise), fresh_hooks(backbone, self.name, put_on):
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
