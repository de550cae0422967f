"""Do L2C's gates follow the error that reusing makes?

    python benchmarks/l2c_gates.py [--model shapes] [--steps 400] [--cases 16] [--out results/runs/l2c_gates]

Fits gates from a neutral start (all one half), then lets the dense model generate held-out captions and, at every
sampling step that may reuse, asks it once more with every part's output of the step before: the mean squared change of
its prediction is that step's reuse error. Prints both, and Spearman's rank correlation over the steps. What a gate is
taught from (scenes of the training split, single noised latents) and what it is judged on (calibration captions, real
sampling trajectories with guidance) have nothing in common.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from harness import checkpoints, registry
from harness.backbones.following import track_sampler
from harness.fitting.options import FitOptions
from harness.fitting.request import Request
from harness.models import Model, load
from harness.spec import Call, Part

PARTS: tuple[Part, ...] = ("self_attention", "cross_attention", "mlp")


@torch.no_grad()
def reuse_errors(model: Model, count: int) -> np.ndarray:
    """Mean squared change of the prediction, (steps,), where all parts reuse the step before; 0 at the even steps."""
    backbone, defaults = model.backbone, model.facts["defaults"]
    task = registry.tasks.get("text-to-image")(model, steps=defaults["steps"], guidance=defaults["guidance"])
    cases = task.calibration(count, 0)
    errors = np.zeros(defaults["steps"])
    kept: dict[tuple[int, Part], Tensor] = {}
    reusing = [False]

    def part(call: Call) -> Tensor:
        place = call.layer, call.part
        if reusing[0]:
            return kept[place]
        out = call.run(call.x)
        if call.step.index % 2 == 0:
            kept[place] = out
        return out

    def denoise(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        if backbone.step.index % 2:
            reusing[0] = True
            other = forward(*args, **kwargs)
            reusing[0] = False
            errors[backbone.step.index] = float((other[0] - out[0]).square().mean())
        return out

    task.prepare(cases)
    with ExitStack() as stack:
        stack.enter_context(track_sampler(backbone, model.pipeline, guided=task.guided))
        for name in PARTS:
            stack.enter_context(backbone.advise(name, part))
        stack.enter_context(backbone.around(denoise))
        task.generate(cases)
    return errors


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's, for values (n,)."""
    return float(stats.spearmanr(a, b).statistic)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps of the fit")
    parser.add_argument("--cases", type=int, default=16)
    parser.add_argument("--scenes", type=int, default=512)
    parser.add_argument("--out", type=Path, default=Path("results/runs/l2c_gates"))
    args = parser.parse_args()
    options = FitOptions.model_validate({"steps": args.steps, "scenes": args.scenes})
    path = Request("l2c", {}, (0.3,), options).run(args.model, args.out)[0]
    gates = checkpoints.load(path)[0]["gates"].mean((1, 2)).numpy()[1::2]  # (steps / 2,)
    errors = reuse_errors(load(args.model), args.cases)[1::2]
    print("| step | mean gate | reuse error |\n| --- | --- | --- |")
    for index, (gate, error) in enumerate(zip(gates, errors, strict=True)):
        print(f"| {2 * index + 1} | {gate:.3f} | {error:.2e} |")
    print(f"\nrank correlation over {len(gates)} steps: {rank_correlation(gates, errors):+.2f}")


if __name__ == "__main__":
    main()
