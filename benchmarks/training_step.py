"""What a training step of DiffCR costs, against a plain routed step (uniform) at the same ratio.

    python benchmarks/training_step.py [--ratio 0.25] [--rounds 12]

Forward and backward of the model with LoRA, batch 8, on the bundled model; all variants interleaved in one process.
`every 1` is the paper's form: both bins in every layer at every step.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch

from harness.backbones import lora
from harness.config import MethodSpec, settings_of
from harness.measure.latency import interleave
from harness.method import Fitting
from harness.models import load
from harness.spec import Step
from harness.training.batches import texts
from results.analysis.statistics import paired_ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratio", type=float, default=0.25, help="between two bins, where both have tokens to route")
    parser.add_argument("--rounds", type=int, default=12)
    args = parser.parse_args()
    model = load("shapes")
    backbone = model.backbone
    lora.inject(backbone, 16)
    text = {
        name: part.expand(8, *part.shape[1:]) for name, part in texts(model, ["a red star at the top left"]).items()
    }
    x = torch.randn(8, int(backbone.transformer.config.in_channels), 16, 16)  # type: ignore[union-attr,arg-type]

    def fitting_of(name: str, **options: object) -> Fitting:
        method = settings_of(MethodSpec(name=name), (args.ratio,))[0]
        fitting = method.fitting(backbone, 20, type(method).FitSettings.model_validate(options))
        fitting.target(args.ratio, 0, 1000)
        if hasattr(fitting.module, "ratios"):
            fitting.module.ratios.values.data.fill_(args.ratio)  # type: ignore[union-attr]
        return fitting

    def step(fitting: Fitting) -> Callable[[], None]:
        count = [0]

        def run() -> None:
            fitting.target(args.ratio, count[0], 1000)
            count[0] += 1
            with backbone.at(Step(0, 20, 500.0)), fitting.attach():
                out = backbone.transformer(
                    x, **text, timestep=torch.full((8,), 500.0),
                    added_cond_kwargs={}, return_dict=False,
                )[0]  # fmt: skip
            (out.square().mean() + sum(fitting.losses().values(), torch.zeros(()))).backward()

        return run

    names = ["uniform", "diffcr, every 4", "diffcr, every 1"]
    runs = [step(fitting_of("uniform")), step(fitting_of("diffcr")), step(fitting_of("diffcr", every=1))]
    times = interleave(runs, device=torch.device("cpu"), warmup=2, repeats=args.rounds)
    for name, seconds in zip(names[1:], times[1:], strict=True):
        ratio = paired_ratio(np.array(seconds), np.array(times[0]))
        print(
            f"{name}: {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] of a uniform step "
            f"(median of {args.rounds} pairs, 95 % interval; uniform {np.median(times[0]):.3f} s)"
        )


if __name__ == "__main__":
    main()
