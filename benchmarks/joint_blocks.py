"""A routed step of joint blocks beside a dense one, at the real size of Stable Diffusion 3 and Flux.

    python benchmarks/joint_blocks.py [--ratios 0.1,0.2,0.3] [--rounds 6] [--size 128] [--device cpu]

The whole models do not fit a small machine: this takes each one's true block sizes, and as few blocks as show every
kind (Stable Diffusion 3: two joint blocks; Flux: one double and one single), with random weights, on latents of 128 x
128 (images of 1024 x 1024). The embeddings before and the projection after are run too. Dense and routed interleave.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import numpy as np
import torch

from harness.attach import attached
from harness.backbones.base import Backbone
from harness.measure.latency import interleave
from harness.models import random_init
from harness.models.loading import family_of
from harness.profiling import costs, subject
from harness.profiling.subject import Subject
from harness.profiling.workload import candidates
from harness.sweep import Profile, validated
from results.analysis.statistics import paired_ratio

CUT: dict[str, dict[str, Any]] = {
    "sd3-medium": {"num_layers": 2},
    "flux-dev": {"num_layers": 1, "num_single_layers": 1},
}


def cut(name: str, device: torch.device) -> Subject:
    """The model with few blocks."""
    known = random_init.architecture(name)

    def build() -> Backbone:
        return family_of(random_init.class_name(name))(random_init.build(name, device=str(device), **CUT[name]))

    return Subject(build(), device, known.size, known.text_tokens, known.text_source, "random weights", build)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratios", default="0.1,0.2,0.3")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--size", type=int, default=128, help="side of the latents")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    ratios = [float(ratio) for ratio in args.ratios.split(",")]
    profile = validated(Profile, {"methods": "uniform", "ratios": ratios, "device": args.device, "rounds": args.rounds})
    device = torch.device(args.device)
    for name in CUT:
        on = cut(name, device)
        setup = subject.Setup(1, args.size, on.text_tokens, None)
        given = subject.inputs(on.backbone, setup)
        dense, *routed = candidates(profile, on)
        whole = costs.executed(on, dense, setup).total
        for one in routed:
            run = costs.stepper(on.backbone, one, given)
            a, b = interleave(
                [run, run], device=device, warmup=1, repeats=args.rounds,
                inside=[partial(attached, on.backbone, each.method, each.state) for each in (dense, one)],
            )  # fmt: skip
            ratio = paired_ratio(np.array(b), np.array(a))
            cost = costs.executed(on, one, setup).total / whole
            print(
                f"{name}, uniform {100 * (one.method.ratio or 0):g} %: latency {ratio.value:.3f} "
                f"[{ratio.low:.3f}, {ratio.high:.3f}] of dense ({np.median(a):.2f} s), MACs {cost:.3f}, "
                f"{args.rounds} pairs, {on.text_tokens} text tokens",
                flush=True,
            )


if __name__ == "__main__":
    main()
