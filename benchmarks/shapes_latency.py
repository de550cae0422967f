"""How much of `uniform`'s saving on `shapes` reaches the denoiser's latency, and how much could.

    python benchmarks/shapes_latency.py [--ratio 0.3] [--rounds 12] [--batch 1,16]

"no routing" runs every block on the first tokens of the kept number and throws the result away: no method that runs
this block on that many tokens can be faster. This model is small: what a block costs whatever the number of its tokens
(the interpreter, small operators) is a large share.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor

from harness import registry
from harness.attach import attached
from harness.measure.latency import interleave
from harness.models import load
from harness.spec import Call, Step
from harness.tokens import kept_count
from harness.training.batches import texts
from results.analysis.statistics import paired_ratio


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--batch", default="1,16")
    args = parser.parse_args()
    model = load("shapes")
    backbone, uniform = model.backbone, registry.methods.get("uniform")
    state = model.adapter(f"uniform-{round(100 * args.ratio)}")
    method = uniform(uniform.Settings(ratio=args.ratio))

    @contextmanager
    def routed() -> Iterator[None]:
        with attached(backbone, method, state), backbone.at(Step(0, 20, 500.0)):
            yield

    def first(call: Call) -> Tensor:
        call.run(call.x[:, : kept_count(args.ratio, call.x.shape[1], "floor")].contiguous())
        return call.x

    @contextmanager
    def free() -> Iterator[None]:
        with backbone.advise("block", first), backbone.at(Step(0, 20, 500.0)):
            yield

    for batch in map(int, args.batch.split(",")):
        halves = 2 * batch  # CFG
        latents = torch.randn(halves, backbone.transformer.config.in_channels, 16, 16)
        text = {
            name: part.expand(halves, *part.shape[1:])
            for name, part in texts(model, ["a large red plain star"]).items()
        }

        def run(latents: Tensor = latents, text: dict[str, Tensor] = text) -> None:
            backbone.transformer(
                latents, **text, added_cond_kwargs={},
                timestep=torch.full((len(latents),), 500.0), return_dict=False,
            )  # fmt: skip

        dense, thinner, ours = interleave(
            [run] * 3, device=model.device, warmup=3, repeats=args.rounds, inside=[nullcontext, free, routed]
        )
        for name, seconds in (("no routing", thinner), (method.name, ours)):
            ratio = paired_ratio(np.array(seconds), np.array(dense))
            print(
                f"batch {batch}, {name} at {args.ratio:.0%}: {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] of "
                f"dense, fastest against fastest {min(seconds) / min(dense):.2f} ({args.rounds} rounds, "
                f"dense {1e3 * np.median(dense):.0f} ms)"
            )


if __name__ == "__main__":
    main()
