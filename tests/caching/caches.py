"""What the tests of caches share: the methods, images of the tiny model, and what ran when."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from harness.attach import attached
from harness.backbones.following import track_sampler
from harness.measure import flops
from harness.method import Method
from harness.models import Model
from harness.spec import State
from methods.caching import PAB, FasterCache, FBCache, MagCache, TaylorSeer
from methods.tgate import TGate

LAYERS, WIDTH, TOKENS, STEPS = 3, 32, 256, 8  # timesteps 999, 874, 749, 624, 499, 374, 249, 124
RATIOS = State({"mag_ratios": torch.tensor([1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9])})
ALL: list[Method] = [
    FBCache(),
    PAB(),
    TaylorSeer(),
    FasterCache(),
    MagCache(MagCache.Settings(threshold=0.12)),
    TGate(),
]
IDENTITY: list[Method] = [
    FBCache(FBCache.Settings(threshold=0)),
    PAB(PAB.Settings(skip=1)),
    TaylorSeer(TaylorSeer.Settings(interval=1)),
    FasterCache(FasterCache.Settings(skip=1)),
    MagCache(MagCache.Settings(threshold=0)),
    TGate(TGate.Settings(gated=0)),
]


def name_of(method: Method) -> str:
    return method.name


def state_of(method: Method) -> State | None:
    return RATIOS if method.needs_state else None


def images(model: Model, steps: int = STEPS, seed: int = 0, batch: int = 1, guidance: float = 2.0) -> Tensor:
    prompts = ["a large red plain circle top left", "on a pink plain background", "small blue star"]
    return model.pipeline(
        prompts[seed % 3 : seed % 3 + batch],
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed + i) for i in range(batch)],
        output_type="latent",
        **model.call,
    ).images


def draw(model: Model, method: Method | None = None, guided: bool | None = None, **how: Any) -> Tensor:
    with track_sampler(model.backbone, model.pipeline, guided):
        if method is None:
            return images(model, **how)
        with attached(model.backbone, method, state_of(method)):
            return images(model, **how)


@contextmanager
def watched(model: Model) -> Iterator[dict[tuple[str, int], list[tuple[int, int]]]]:
    """(part, layer) -> (step, batch) of each of its runs, seen by a linear layer inside."""
    seen: dict[tuple[str, int], list[tuple[int, int]]] = {
        (part, layer): [] for part in ("attn1", "attn2", "ff") for layer in range(LAYERS)
    }
    handles = []
    for (part, layer), runs in seen.items():
        linear = model.backbone.blocks[layer].get_submodule("ff.net.2" if part == "ff" else f"{part}.to_q")
        handles.append(
            linear.register_forward_pre_hook(
                lambda _m, args, runs=runs: runs.append((model.backbone.step.index, len(args[0])))
            )
        )
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def steps_of(model: Model, method: Method, **how: Any) -> dict[tuple[str, int], list[int]]:
    with watched(model) as seen:
        draw(model, method, **how)
    return {key: [step for step, _ in runs] for key, runs in seen.items()}


def clean(model: Model) -> bool:
    return not any(
        "forward" in vars(module) or "_diffusers_hook" in vars(module) or module._forward_pre_hooks
        for module in model.backbone.transformer.modules()
    )


def gmacs(model: Model, method: Method, **how: Any) -> tuple[float, ...]:
    return flops.count(model.backbone.transformer, lambda: draw(model, method, **how), images=1).per_call
