"""Which tokens a method keeps, by layer and sampling step, while one image forms.

Letters: T sampling steps, L layers, H W token grid.
"""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor

from harness.attach import attached
from harness.backbones.base import Backbone
from harness.backbones.following import track_sampler
from harness.kernels import routing
from harness.method import Method
from harness.metric import images_to_uint8
from harness.models import Model
from harness.models.predicted_x0 import clean_predictions, unpacked
from harness.spec import Call, Case, State
from harness.task import Task
from harness.tokens import unpack
from results.run_files import TokenMaps

SHOWN = 8


def record(model: Model, task: Task, case: Case, method: Method, state: State | None) -> TokenMaps:
    """Generate one image and watch. Pictures of the forming image are decoded at `SHOWN` steps at most, the others
    repeat the last one.

    A layer that a method leaves alone keeps all its tokens; so does one whose tokens are merged, because merged tokens
    have no place of their own. One that a cache skips at a step keeps none there.
    """
    backbone = model.backbone
    keep: dict[tuple[int, int], Tensor] = {}
    scores: dict[tuple[int, int], Tensor] = {}
    routers = method.router_weights(state)
    there: list[Tensor] = []  # the tokens that the model generates, (B, K)

    def outer(call: Call) -> Tensor:
        index = torch.arange(call.grid.tokens).expand(len(call.x), -1) if call.index is None else call.index.cpu()
        there[:] = [index]
        if routers is not None:
            score = (call.x @ routers[call.layer].to(call.x)).sigmoid().float().cpu()
            blank = torch.full((len(index), call.grid.tokens), float("nan"))
            scores[call.step.index, call.layer] = blank.scatter(1, index, score).mean(0)
        return call.run(call.x)

    def inner(call: Call) -> Tensor:
        index = call.index if call.index is not None and call.index.shape[1] == call.x.shape[1] else there[0]
        kept = torch.full((len(there[0]), call.grid.tokens), float("nan")).scatter(1, there[0], 0.0)
        keep[call.step.index, call.layer] = kept.scatter(1, index.cpu(), 1.0).mean(0)
        return call.run(call.x)

    task.prepare([case])
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(routing.using("plain"))  # what watches stands where kernels would fuse
        stack.enter_context(track_sampler(backbone, model.pipeline, task.guided))
        stack.enter_context(backbone.advise("block", outer))
        stack.enter_context(attached(backbone, method, state))
        stack.enter_context(backbone.advise("block", inner))
        clean = stack.enter_context(clean_predictions(model.pipeline.scheduler))
        task.generate([case])
        grid = backbone.grid
        vae = model.pipeline.vae
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        latents = [_on_canvas(x, there[0], backbone) if x.ndim == 3 else x for x in clean]
        shown = set(np.linspace(0, len(latents) - 1, min(SHOWN, len(latents))).round().astype(int).tolist())
        decoded: list[Tensor] = []
        for step, x in enumerate(latents):
            fresh = step in shown
            scaled = unpacked(x, vae) / vae.config.scaling_factor + shift
            decoded.append(vae.decode(scaled).sample / 2 + 0.5 if fresh else decoded[-1])

        steps = backbone.step.count

    def stacked(found: dict[tuple[int, int], Tensor], missing: float) -> np.ndarray:
        # What a cache has skipped, no token went through.
        empty = torch.full_like(next(iter(found.values())), missing)
        places = [(t, layer) for t in range(steps) for layer in range(backbone.layers)]
        rows = torch.stack([found.get(place, empty) for place in places])
        return rows.view(steps, backbone.layers, grid.height, grid.width).numpy()

    shown_scores = stacked(scores, float("nan")) if scores else None
    ratios = method.ratio_table(state)
    return TokenMaps(
        stacked(keep, 0.0), images_to_uint8(torch.cat(decoded)), shown_scores,
        None if ratios is None else ratios.cpu().numpy(),
    )  # fmt: skip


def _on_canvas(x: Tensor, index: Tensor, backbone: Backbone) -> Tensor:
    """Tokens (1, K, C p p) at places index (B, K) as latents (1, C, h, w) that are 0 elsewhere."""
    grid, patch = backbone.grid, int(backbone.transformer.config.patch_size)  # type: ignore[union-attr,arg-type]
    canvas = x.new_zeros(1, grid.tokens, x.shape[-1])
    canvas[0, index[0].to(x.device)] = x[0]
    return unpack(canvas, patch, (grid.height * patch, grid.width * patch))
