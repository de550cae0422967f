"""Fitting a method on a model: LoRA and the method's own parameters, one loop, one data order, one budget for all.

A fit has one target ratio, or climbs through several in equal stages and leaves an adapter state at the end of each;
where the method learns its ratios it also leaves by-products on the way, as in DiffCR. Rivals share the loop; an
adapter's facts say how many steps it had.

Beside the diffusion loss stands a distillation loss: the distance to what the dense model says for the same noised
latents. Its target has no sampling noise, so a short fit learns from it much faster. Set `distill` to 0 for the
diffusion loss alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import AdamW

from harness import checkpoints
from harness.backbones import lora
from harness.errors import UserError
from harness.fitting.objective import Objective
from harness.fitting.options import FitOptions
from harness.method import Method, MethodSettings
from harness.models import Model
from harness.renamed import CALIBRATION_PASS, old_keywords
from harness.spec import State, Step
from harness.training.batches import Data
from harness.training.loop import Losses, TrainingPlan, train

VERSION = 2  # raise it where another adapter comes of the same request


class _Trained(nn.Module):
    """The model and the method's own parameters in one module, for the training loop."""

    def __init__(self, transformer: nn.Module, own: nn.Module) -> None:
        super().__init__()
        self.transformer, self.own = transformer, own

    def forward(self, x: Tensor, t: Tensor, inputs: dict[str, Any]) -> Tensor:
        """What the model says for noised latents (B, C, H, W) or tokens (B, K, C) at timesteps (B,)."""
        t = t * getattr(self.transformer.config, "timestep_scale", 1.0)
        out = self.transformer(x, timestep=t, return_dict=False, **inputs)[0]
        return out[:, : x.shape[1]] if x.ndim == 4 else out[..., : x.shape[-1]]  # a learned variance is not trained


def fit(
    methods: Sequence[Method],
    model: Model,
    options: FitOptions,
    data: Data,
    out: Path,
    work: Path,
    *,
    own: MethodSettings | None = None,
    accelerator: Accelerator,
) -> list[Path]:
    """Fit one method at rising ratios: `methods` are its objects, one per stage. Writes an adapter per stage to `out`,
    by-products between them, and resumable checkpoints to `work`; returns the paths of the stages' adapters.

    The model is left with LoRA layers in it: load it anew before using it. Raises UserError where there is nothing
    to fit.
    """
    first, backbone = methods[0], model.backbone
    seed = getattr(first.settings, "seed", 0)
    steps = int(model.facts.get("defaults", {}).get("steps", 20))
    objective = Objective(model.pipeline.scheduler, steps)
    fitting = first.fitting(backbone, steps, own)
    for module in model.modules:
        module.requires_grad_(False).eval()
    facts = told_of(first, model, options, own) | {"data": data.digest}
    keep_others(methods, out, facts)
    if fitting.calibrate is not None:
        with torch.no_grad():
            fitting.calibrate(partial(_calibration_pass, model, objective, options, data, seed))
    if not fitting.trains:
        state = fitting.state()
        path = out / f"{first.adapter()}.safetensors"
        if accelerator.is_main_process:
            checkpoints.save(path, state.tensors, {**facts, **state.facts})
        return [path]

    if not (fitting.diffusion or options.distill):
        raise UserError(f"{first.name} learns from the dense model's prediction alone: leave distill above 0")
    learned_at = [step for step in range(steps) if fitting.teaches(step)]
    if not learned_at:
        raise UserError(f"{first.name} finds nothing to learn in {steps} sampling steps, the default of {model.name!r}")
    targets = tuple(part.strip() for part in options.lora_targets.split(",") if part.strip())
    adapted = lora.inject(backbone, options.lora_rank, seed, targets) if options.lora_rank and fitting.lora else []
    container = _Trained(backbone.transformer, fitting.module)
    goal, ratio, paths = [0.0, 0.0, 1.0], [0.0], list[Path]()

    def loss(module: nn.Module, step: int, generator: torch.Generator) -> Losses:
        # The target climbs over the first two fifths of a stage and then holds.
        start, end, length = goal
        ratio[0] = fitting.learned() if fitting.learned else 0.0
        share = min(1.0, 2.5 * (step + 1) / length)
        fitting.target(start + share * (end - start), step, int(length))
        batch = data.batch(options.batch, generator)
        clean = batch.clean
        t, index = objective.draw(len(clean), fitting.regions, generator, learned_at)
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        x, target = objective.noised(clean, t, noise)
        fitting.renew(generator)
        teacher = None
        if options.distill:
            with torch.no_grad(), accelerator.autocast(), lora.without(backbone) if adapted else nullcontext():
                teacher = module(x, t, batch.inputs).float()
        with fitting.attach(), accelerator.autocast():
            if fitting.previous(index):
                before = objective.at(index - 1, len(clean)).to(t)
                with torch.no_grad(), backbone.at(Step(index - 1, steps, float(before[0]))):
                    module(objective.noised(clean, before, noise)[0], before, batch.inputs)
            with backbone.at(Step(index, steps, float(t[0]))):
                prediction = module(x, t, batch.inputs).float()
        terms = {"diffusion": F.mse_loss(prediction, target)}
        total = terms["diffusion"] if fitting.diffusion else torch.zeros_like(terms["diffusion"])
        if teacher is not None:
            terms["distill"] = F.mse_loss(prediction, teacher)
            total = total + options.distill * terms["distill"]
        for name, value in fitting.losses().items():
            terms[name] = value
            total = total + value
        logged = {name: torch.tensor(value) for name, value in fitting.log().items()}
        return {"loss": total, **terms, **logged}

    def keep(method: Method, tolerance: float) -> tuple[Path, Method]:
        state = fitting.state()
        tensors = {**state.tensors, **(lora.tensors(backbone) if adapted else {})}
        honest = _named_by_effective_ratio(method, state, tolerance) if fitting.learned else method
        path = out / f"{honest.adapter()}.safetensors"
        told = {**facts, **state.facts, "settings": honest.settings.model_dump(mode="json"), "aimed": method.ratio}
        if honest is not method and _of_another_fit(path, told):
            path = out / f"{method.adapter()}-reaches-{100 * (honest.ratio or 0):g}.safetensors"
            del told["settings"]  # the other adapter stands for them
        if accelerator.is_main_process and path not in paths:  # a by-product never takes a settled adapter's place
            checkpoints.save(path, tensors, told)
        return path, honest

    def after_step(step: int) -> None:
        fitting.after_step()
        if fitting.learned is None:
            return
        now = fitting.learned()
        for mark in _marks(goal[0], goal[1], options.by_product):
            if ratio[0] < mark <= now:
                fitting.target(mark, step, int(goal[2]))  # rounds the ratios to it; the next step aims anew
                keep(_passed(first, mark), options.by_product / 5)

    each = max(1, options.steps // len(methods))
    for stage, method in enumerate(methods):
        goal[:] = [goal[1], method.ratio or 0.0, float(each)]
        groups: list[dict[str, Any]] = [{"params": adapted, "lr": options.lr}] if adapted else []
        for name, parameter in fitting.module.named_parameters():
            factor = next((f for prefix, f in fitting.groups.items() if name.startswith(prefix)), 1.0)
            groups.append({"params": [parameter], "lr": options.lr * factor})
        optimizer = AdamW(groups, lr=options.lr, betas=(0.9, 0.98), weight_decay=0.0)
        plan = TrainingPlan(
            steps=each, warmup=10, decay=0.4, save_seconds=options.save_seconds,
            seed=1000 * (seed + 1) + stage, log_every=5, apart=options.clip_apart,
        )  # fmt: skip
        train(
            method.adapter(), container, loss, [optimizer], plan, work, accelerator=accelerator,
            trainable=lambda name: name.startswith("own.") or "lora_" in name, after_step=after_step,
        )  # fmt: skip
        fitting.target(goal[1], each - 1, each)  # nobody did in this process where an earlier one ended the stage
        path, honest = keep(method, 0.02)
        if honest is not method:
            accelerator.print(
                f"warning: the fit aimed at a ratio of {method.ratio:g} and reached {honest.ratio:g}: {path}"
            )
        paths.append(path)
    return paths


def told_of(method: Method, model: Model, options: FitOptions, own: MethodSettings | None) -> dict[str, Any]:
    """What an adapter says of the fit that made it, but for its data and what was learned."""
    return {
        "method": method.name,
        "model": model.name,
        "model_digest": model.digest,
        "fit": options.model_dump(mode="json", exclude={"save_seconds"}),
        "own": own.model_dump(mode="json") if own is not None else {},
    }


_CALLED = {"model_digest": "the model", "fit": "options of the fit", "own": "options of the method", "data": "the data"}


def keep_others(methods: Sequence[Method], out: Path, facts: Mapping[str, Any]) -> None:
    """Raises UserError where an adapter would be lost that was fitted otherwise, perhaps for longer. What older
    adapters do not say differs in nothing."""
    for method in methods:
        path = out / f"{method.adapter()}.safetensors"
        try:
            there = checkpoints.facts(path) if path.is_file() else {}
        except checkpoints.CheckpointError:
            continue
        other = [called for name, called in _CALLED.items() if name in there and name in facts
                 and there[name] != facts[name]]  # fmt: skip
        if other:
            raise UserError(
                f"{path} holds another fit ({', '.join(other)} differ): give another --out, or move it away"
            )


def _of_another_fit(path: Path, told: dict[str, Any]) -> bool:
    """Whether an adapter is there that another fit made: one of another target, length or model."""
    if not path.is_file():
        return False
    try:
        there = checkpoints.facts(path)
    except checkpoints.CheckpointError:
        return False
    mine = json.loads(json.dumps(told))
    return any(there.get(name) != mine[name] for name in ("aimed", "fit", "model_digest", "settings"))


def _marks(start: float, end: float, distance: float) -> list[float]:
    """The multiples of a distance strictly between two targets."""
    count = math.ceil(end / distance - 1e-9) if distance else 0
    return [mark for i in range(1, count) if start + 1e-9 < (mark := round(i * distance, 6)) < end - 1e-9]


def _at(method: Method, ratio: float) -> Method:
    return type(method)(method.settings.model_copy(update={"ratio": ratio}))


def _passed(method: Method, ratio: float) -> Method:
    """The method with the by-product at a ratio that a fit passes, which has a name of its own where the method knows
    by-products (`trajectory`)."""
    made = _at(method, ratio)
    if "trajectory" not in type(made.settings).model_fields:
        return made
    return type(method)(made.settings.model_copy(update={"trajectory": True}))


def _named_by_effective_ratio(method: Method, state: State, tolerance: float) -> Method:
    """The method with the ratio that its fit really reached, where that is further off the target than `tolerance`."""
    effective = method.effective_ratio(state)
    if effective is None or method.ratio is None or abs(effective - method.ratio) <= tolerance:
        return method
    return _at(method, round(effective, 3))


@old_keywords(**CALIBRATION_PASS)
def _calibration_pass(
    model: Model,
    objective: Objective,
    options: FitOptions,
    data: Data,
    seed: int,
    each: Callable[[Tensor, Any], None] | None = None,
    *,
    full_trajectory: bool = False,
    sampled: int = 0,
    batches: int | None = None,
) -> None:
    """See `harness.method.CalibrationPass`: forward passes on a quarter of the cached scenes, at all timesteps."""
    backbone, dense = model.backbone, _Trained(model.backbone.transformer, nn.Module())
    count = max(1, options.scenes // options.batch // 4)

    def run(x: Tensor, times: Tensor, step: Step, inputs: dict[str, Any], target: Tensor | None) -> Tensor:
        with backbone.at(step):
            prediction = dense(x, times, inputs)
        if each is not None:
            each(prediction, target)
        return prediction.detach()

    for batch in range(count if batches is None else min(batches, count)):
        generator = torch.Generator(model.device).manual_seed(1000 * (seed + 1) + batch)
        drawn = data.batch(options.batch, generator)
        clean = drawn.clean
        t, index = objective.draw(len(clean), 1, generator)
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        if sampled:
            sampler = objective.sampler(sampled)
            backbone.begin(sampler.timesteps.tolist())
            x = noise * sampler.init_noise_sigma if hasattr(sampler, "init_noise_sigma") else noise
            for place, at in enumerate(sampler.timesteps):
                scaled = sampler.scale_model_input(x, at) if hasattr(sampler, "scale_model_input") else x
                times, step = at.float().expand(len(x)).to(t), Step(place, sampled, float(at))
                x = sampler.step(run(scaled, times, step, drawn.inputs, None), at, x, return_dict=False)[0].detach()
            continue
        backbone.begin(objective.timesteps.tolist())
        steps = range(objective.steps) if full_trajectory else ()
        visited = [(objective.at(i, len(clean)).to(t), i) for i in steps] or [(t, index)]
        for times, place in visited:
            x, target = objective.noised(clean, times, noise)
            run(x, times, Step(place, objective.steps, float(times[0])), drawn.inputs, target)
