"""What the engine costs on top of the bare pipeline: the same cases, interleaved in one process.

    python benchmarks/overhead.py [--cases 16] [--rounds 5]

Bare: a loop that calls the diffusers pipeline with the prompts' states. Engine: its generation pass, with progress,
checks, conversion to 8 bits and PNG files.
"""

from __future__ import annotations

import argparse
import tempfile

import numpy as np
import torch

from harness import config, generation, plan
from harness.measure.latency import interleave
from results.analysis.statistics import paired_ratio
from results.run_folder import RunFolder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    (plan_,) = plan.make(config.build({"methods": "dense", "cases": args.cases, "batch": 8}))
    opened = plan_.opened
    model, batch = opened.model, opened.batch
    states = [model.encode([case.prompt], guided=True) for case in opened.cases]

    def bare() -> None:
        for start in range(0, args.cases, batch):
            some = states[start : start + batch]
            text = {name: torch.cat([state[name] for state in some]) for name in some[0]}
            seeds = [torch.Generator().manual_seed(case.seed) for case in opened.cases[start : start + batch]]
            model.pipeline(
                **text, negative_prompt=None, generator=seeds, output_type="pt",
                num_inference_steps=opened.task.steps, guidance_scale=opened.task.guidance, **model.call,
            )  # fmt: skip

    opened.task.prepare(opened.cases)
    with tempfile.TemporaryDirectory() as place, RunFolder.grow(place, {}) as folder:

        def whole() -> None:
            made = opened.generate(opened.dense, None, lambda _what, _images: None)
            images, _ = generation.joined(made, len(opened.cases))
            folder.save_images(images, "bench")

        a, b = interleave([bare, whole], device=model.device, warmup=1, repeats=args.rounds)
    ratio = paired_ratio(np.array(b), np.array(a))
    print(
        f"engine / bare pipeline: {ratio.value:.4f} [{ratio.low:.4f}, {ratio.high:.4f}] "
        f"(median of {args.rounds} pairs, 95 % interval), {args.cases} cases, "
        f"{np.median(a) / args.cases:.3f} s per image bare"
    )


if __name__ == "__main__":
    main()
