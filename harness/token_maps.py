"""Which tokens a method keeps, by layer and sampling step, while one image forms.

Letters: T sampling steps, L layers, H W token grid.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.attach import attached
from harness.backbones.base import Backbone
from harness.backbones.sampler_clock import follow
from harness.metric import images_to_uint8
from harness.models import Model
from harness.models.lazy import unpack
from harness.models.predicted_x0 import clean_predictions, unpacked
from harness.plan import Plan, Point
from harness.spec import Call, Case, State
from harness.task import Task
from results.files import slug
from results.plots.token_maps import ratio_against_score, ratio_table, token_maps


@dataclass(frozen=True)
class Maps:
    """keep: (T, L, H, W), the share of the CFG halves in which a token went through the layer, NaN where the model
    generates none. scores: (T, L, H, W), the routers' scores in 0..1, None for a method without routers. images:
    (T, h, w, 3) uint8, the clean image that the sampler expects after each step."""

    keep: np.ndarray
    scores: np.ndarray | None
    images: np.ndarray


def draw(plan: Plan, point: Point, case: Case, folder: Path) -> list[Path]:
    """Pictures of one point: kept tokens, and router scores, learned ratios and how the two go together where the
    method has them. Nothing where every token keeps its place in every layer."""
    found = record(plan.model, plan.task, case, point.method, point.state)
    label, written = point.label, []
    start = folder / slug(label.replace(" %", ""))

    def path(what: str) -> Path:
        return start.with_name(f"{start.name}-{what}.png")

    if (found.keep < 1).any():
        halves = "share of CFG halves that keep the token"
        written.append(token_maps(found.keep, found.images, path("kept"), title=f"{label}: kept tokens", label=halves))
    ratios = None if point.state is None else point.state.tensors.get("ratios")
    if ratios is not None:
        written.append(ratio_table(ratios.tolist(), path("ratios"), title=f"{label}: ratios at inference"))
    if found.scores is not None:
        title = f"{label}: router scores"
        written.append(
            token_maps(found.scores, found.images, path("scores"), title=title, label="score, mean of CFG halves")
        )
        if ratios is not None:
            steps, regions = len(found.scores), ratios.shape[1]
            region = np.arange(steps) * regions // steps  # of each sampling step
            scores = np.nanmean(found.scores, axis=(2, 3))  # (T, L)
            means = np.stack([scores[region == r].mean(0) for r in range(regions)], axis=1)  # (L, R)
            written.append(ratio_against_score(ratios.numpy(), means, path("correlation"), title=label))
    return written


def record(model: Model, task: Task, case: Case, method: Any, state: State | None) -> Maps:
    """Generate one image and watch. A layer that a method leaves alone keeps all its tokens; so does one whose tokens
    are merged, because merged tokens have no place of their own. One that a cache skips at a step keeps none there."""
    backbone = model.backbone
    keep: dict[tuple[int, int], Tensor] = {}
    scores: dict[tuple[int, int], Tensor] = {}
    routers = None if state is None else state.tensors.get("router")
    there: list[Tensor] = []  # the tokens that the model generates, (B, K)

    def outer(call: Call) -> Tensor:
        index = torch.arange(call.grid.tokens).expand(len(call.x), -1) if call.index is None else call.index.cpu()
        there[:] = [index]
        if routers is not None:
            said = (call.x @ routers[call.layer].to(call.x)).sigmoid().float().cpu()
            blank = torch.full((len(index), call.grid.tokens), float("nan"))
            scores[call.step.index, call.layer] = blank.scatter(1, index, said).mean(0)
        return call.run(call.x)

    def inner(call: Call) -> Tensor:
        index = call.index if call.index is not None and call.index.shape[1] == call.x.shape[1] else there[0]
        kept = torch.full((len(there[0]), call.grid.tokens), float("nan")).scatter(1, there[0], 0.0)
        keep[call.step.index, call.layer] = kept.scatter(1, index.cpu(), 1.0).mean(0)
        return call.run(call.x)

    task.prepare([case])
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(follow(backbone, model.pipeline))
        stack.enter_context(backbone.advise("block", outer))
        stack.enter_context(attached(backbone, method, state))
        stack.enter_context(backbone.advise("block", inner))
        clean = stack.enter_context(clean_predictions(model.pipeline.scheduler))
        task.generate([case])
        grid = backbone.grid
        vae = model.pipeline.vae
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        latents = [_on_canvas(x, there[0], backbone) if x.ndim == 3 else x for x in clean]
        decoded = [vae.decode(unpacked(x, vae) / vae.config.scaling_factor + shift).sample / 2 + 0.5 for x in latents]

        steps = backbone.step.count

    def stacked(found: dict[tuple[int, int], Tensor], missing: float) -> np.ndarray:
        # What a cache has skipped, no token went through.
        empty = torch.full_like(next(iter(found.values())), missing)
        places = [(t, layer) for t in range(steps) for layer in range(backbone.layers)]
        rows = torch.stack([found.get(place, empty) for place in places])
        return rows.view(steps, backbone.layers, grid.height, grid.width).numpy()

    said = stacked(scores, float("nan")) if scores else None
    return Maps(stacked(keep, 0.0), said, images_to_uint8(torch.cat(decoded)))


def _on_canvas(x: Tensor, index: Tensor, backbone: Backbone) -> Tensor:
    """Tokens (1, K, C p p) at places index (B, K) as latents (1, C, h, w) that are 0 elsewhere."""
    grid, patch = backbone.grid, int(backbone.transformer.config.patch_size)  # type: ignore[union-attr,arg-type]
    canvas = x.new_zeros(1, grid.tokens, x.shape[-1])
    canvas[0, index[0].to(x.device)] = x[0]
    return unpack(canvas, patch, (grid.height * patch, grid.width * patch))
