"""What routing itself costs (score, top-k, gather, scatter), against a block run on that many tokens.

    python benchmarks/routing.py [--ratio 0.2] [--rounds 15]

At PixArt XL/2 size: width 1152, 16 heads, 1024 tokens, 120 text tokens, batch 2 (both CFG halves), random weights.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from diffusers import PixArtTransformer2DModel

from harness.measure.latency import interleave
from harness.tokens import kept_count, scatter, take, top_k
from results.analysis.statistics import paired_ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratio", type=float, default=0.2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    device, tokens, width = torch.device(args.device), 1024, 1152
    block = PixArtTransformer2DModel(num_layers=1).transformer_blocks[0].eval().to(device)
    x = torch.randn(2, tokens, width, device=device)
    weight = torch.randn(width, device=device)
    rest = {
        "encoder_hidden_states": torch.randn(2, 120, width, device=device),
        "timestep": torch.randn(2, 6 * width, device=device),
    }
    k = kept_count(args.ratio, tokens)
    kept = x[:, :k].contiguous()

    def routing() -> None:
        scores = (x @ weight).sigmoid()
        index = top_k(scores, k)
        chosen = take(x, index)
        scatter(x, index, chosen * scores.gather(1, index)[..., None])

    def run() -> None:
        block(kept, **rest)

    with torch.no_grad():
        a, b = interleave([run, routing], device=device, warmup=3, repeats=args.rounds)
    ratio = paired_ratio(np.array(b), np.array(a))
    print(
        f"routing / block on {k} tokens: {100 * ratio.value:.2f} % "
        f"[{100 * (ratio.low or 0):.2f}, {100 * (ratio.high or 0):.2f}] "
        f"(median of {args.rounds} pairs, 95 % interval; "
        f"block {1e3 * np.median(a):.1f} ms, routing {1e3 * np.median(b):.2f} ms)"
    )


if __name__ == "__main__":
    main()
