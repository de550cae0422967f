"""Settings of AT-EDM and of its controls at equal GMACs, on calibration scenes of `shapes`.

    python -m benchmarks.tune_at_edm [--cases 32] [--steps 10] [--budget 0.8] [--only axes]

Every row's ratio is searched until its GMACs are the budget's share of dense's within half a percent. Printed: PSNR to
dense, distance to dense and distance to the true picture in the judge's features, means and standard errors over
images; then each AT-EDM row less random dropping and less random tokens with recovery, with the same exempt layers and
steps, paired by image.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cache
from typing import Any

import numpy as np
import torch

from harness import registry
from harness.attach import attached
from harness.backbones.following import track_sampler
from harness.measure.torch_counter import counting
from harness.method import Method
from harness.metric import images_to_uint8
from harness.models import load
from harness.zoo.shapes import scene
from tasks.metrics import features

NEAR, TRIES, BATCH = 0.005, 6, 12
AXES: dict[str, list[dict[str, Any]]] = {
    "layers": [{"first_layers": first} for first in (2, 3, 4)],
    "last_layers": [{"last_layers": 1}],
    "steps": [{"first_steps": 0.2}, {"last_steps": 0.2}, {"early": 0.3}],
    "temperature": [{"temperature": heat} for heat in (0.0, 0.5, 1.0, 4.0)],
    "group": [{"group": 1}, {"group": 2}],
    "recover": [{"recover": "token"}],
    "paper": [{"temperature": 0.0, "group": 1, "recover": "token", "early": 0.3}],
}
EXEMPT = ("first_layers", "last_layers", "first_steps", "last_steps")


class Trial:
    """Images, cost and distances of methods on the same cases."""

    def __init__(self, cases: int, steps: int, budget: float) -> None:
        self.model, self.budget = load("shapes"), budget
        self.model.pipeline.set_progress_bar_config(disable=True)
        self.task = registry.tasks.get("text-to-image")(self.model, steps=steps, guidance=2.0)
        self.cases = self.task.calibration(cases, 0)
        self.task.prepare(self.cases)
        self.dense = self.images(None)
        self.dense_cost = self.cost(None)
        self.dense_features = features.read(self.dense)[1]
        true = images_to_uint8(scene.render(scene.sample("calibration", range(cases)))[0])
        self.true_features = features.read(true)[1]

    def _on(self, method: Method | None) -> ExitStack:
        stack = ExitStack()
        stack.enter_context(torch.no_grad())
        stack.enter_context(track_sampler(self.model.backbone, self.model.pipeline, guided=True))
        if method is not None:
            stack.enter_context(attached(self.model.backbone, method, None))
        return stack

    def images(self, method: Method | None) -> np.ndarray:
        """(N, H, W, 3) uint8."""
        with self._on(method):
            parts = [self.cases[start : start + BATCH] for start in range(0, len(self.cases), BATCH)]
            return np.concatenate([images_to_uint8(self.task.generate(part)) for part in parts])

    def cost(self, method: Method | None) -> int:
        """MACs of one image."""
        with self._on(method), counting() as executed:
            self.task.generate(self.cases[:1])
        return executed.total

    def at_budget(self, name: str, settings: Mapping[str, Any]) -> Method:
        """The method at the ratio that meets the budget, by the secant of the last two tries."""
        kind = registry.methods.get(name)
        ratio, before = 0.2, (0.0, 1.0)
        for _ in range(TRIES):
            method = kind(kind.Settings.model_validate({**settings, "ratio": ratio}))
            share = self.cost(method) / self.dense_cost
            if abs(share - self.budget) <= NEAR:
                return method
            slope = (ratio - before[0]) / (share - before[1])
            before, ratio = (ratio, share), round(ratio + slope * (self.budget - share), 4)
        raise ValueError(f"{name} {settings} does not meet {self.budget:g}")

    def distances(self, method: Method) -> dict[str, np.ndarray]:
        """PSNR to dense, feature distance to dense and to the true picture, (N,) each."""
        images = self.images(method)
        error = (((images.astype(float) - self.dense) / 255) ** 2).mean((1, 2, 3))
        found = features.read(images)[1]
        return {
            "psnr": -10 * np.log10(np.maximum(error, 1e-6)),
            "to dense": np.linalg.norm(found - self.dense_features, axis=1),
            "truth": np.linalg.norm(found - self.true_features, axis=1),
        }


def shown(values: np.ndarray) -> str:
    return f"{values.mean():.2f} +- {values.std(ddof=1) / len(values) ** 0.5:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--budget", type=float, default=0.8)
    parser.add_argument("--only", default="", help=f"axes, with commas: {', '.join(AXES)}; none: the default alone")
    args = parser.parse_args()
    trial = Trial(args.cases, args.steps, args.budget)
    own = np.linalg.norm(trial.dense_features - trial.true_features, axis=1)
    print(f"dense: truth {shown(own)}; budget {args.budget:g}, {args.cases} cases, {args.steps} steps")

    @cache
    def measured(name: str, settings: tuple[tuple[str, Any], ...]) -> dict[str, np.ndarray] | None:
        try:
            method = trial.at_budget(name, dict(settings))
        except Exception as error:  # an axis may leave no room for the budget
            print(f"| {name} {dict(settings)} | left out: {error} |", flush=True)
            return None
        found = trial.distances(method)
        row = " | ".join(shown(values) for values in found.values())
        print(f"| {name} {dict(settings)} | ratio {method.ratio:.3f} | {row} |", flush=True)
        return found

    print("| method | | PSNR to dense | distance to dense | truth |\n| --- | --- | --- | --- | --- |")
    rows = [{}, *(row for axis in filter(None, args.only.split(",")) for row in AXES[axis])]
    pairs = []
    for settings in rows:
        found = measured("at-edm", tuple(settings.items()))
        same = {"first_layers": 4} | {name: value for name, value in settings.items() if name in EXEMPT}
        others = {name: measured(name, tuple(same.items())) for name in ("random", "random-keep")}
        pairs += [(settings, name, found, other) for name, other in others.items()]
    print("\n| at-edm less | | PSNR to dense | distance to dense | truth |\n| --- | --- | --- | --- | --- |")
    for settings, name, found, other in pairs:
        if found is not None and other is not None:
            row = " | ".join(shown(found[what] - other[what]) for what in found)
            print(f"| {settings} | {name} | {row} |")


if __name__ == "__main__":
    main()
