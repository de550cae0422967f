"""What the fused kernels of routing are worth on a GPU, against the same operations one by one.

    python -m benchmarks.kernels [--batch 2] [--tokens 1024] [--ratio 0.2] [--dtype bfloat16] [--rounds 30]

At PixArt XL/2's width (1152), random weights, everything captured into CUDA graphs, so that no launch waits for Python.
Printed: each operation fused and plain; then one block, dense, dense on the kept tokens alone (what routing cannot
beat), routed plainly and routed with kernels. The router's product, which both forms share, is a row of its own. Exit
code 2 without a CUDA device, or where it has no kernels.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import numpy as np
import torch
from diffusers import PixArtTransformer2DModel

from harness.backbones.pixart import PixArt
from harness.kernels import routing
from harness.measure.latency import interleave
from harness.spec import Call, Step
from harness.tokens import Rows, kept_count
from methods.common.routing import Routed

WIDTH, TEXT = 1152, 120
REPEATED = 20  # runs in one graph: a single one is too short to time


def captured(run: Callable[[], object]) -> Callable[[], None]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(REPEATED):
            run()
    return graph.replay


def compare(runs: dict[str, Callable[[], object]], rounds: int) -> None:
    """Prints microseconds of each, and its ratio to the first."""
    times = interleave([captured(run) for run in runs.values()], device=torch.device("cuda"), repeats=rounds)
    first = np.array(times[0])
    for name, seconds in zip(runs, times, strict=True):
        micro = 1e6 * np.median(seconds) / REPEATED
        print(f"{name:32} {micro:9.1f} us   {np.median(np.array(seconds) / first):.3f}")


def plainly(run: Callable[[], object]) -> Callable[[], None]:
    def inner() -> None:
        with routing.using("plain"):
            run()

    return inner


def operations(batch: int, tokens: int, k: int, dtype: torch.dtype, rounds: int) -> None:
    x = torch.randn(batch, tokens, WIDTH, device="cuda", dtype=dtype)
    weight = torch.randn(WIDTH, device="cuda", dtype=dtype)
    noise = torch.randn(batch, tokens, device="cuda")
    shift, scale, gate, *_ = torch.randn(batch, 6, WIDTH, device="cuda", dtype=dtype).chunk(6, dim=1)
    branch = torch.randn(batch, k, WIDTH, device="cuda", dtype=dtype)
    logits = x @ weight
    order, _ = routing.select(logits, k, noise)
    rows, _ = routing.take_modulated(x, order[:, :k], shift, scale, 1e-6)

    def take() -> None:
        part = Rows.of(order[:, :k], tokens).take(x)
        torch.nn.functional.layer_norm(part, (WIDTH,), eps=1e-6) * (1 + scale) + shift

    def put() -> None:
        Rows.of(order[:, :k], tokens).put(x, rows + gate * branch)

    compare(
        {
            "product x . w": lambda: x @ weight,
            "noise, top-k: plain": lambda: (noise + logits).topk(k, dim=1, sorted=False),
            "noise, top-k: fused": lambda: routing.select(logits, k, noise),
            "take, norm, modulate: plain": take,
            "take, norm, modulate: fused": lambda: routing.take_modulated(x, order[:, :k], shift, scale, 1e-6),
            "gate, add, put: plain": put,
            "gate, add, put: fused": lambda: routing.put_gated(x, order, rows, branch, gate),
        },
        rounds,
    )


def blocks(batch: int, tokens: int, k: int, dtype: torch.dtype, rounds: int) -> None:
    side = round(tokens**0.5)
    transformer = PixArtTransformer2DModel(num_layers=1, sample_size=2 * side, caption_channels=4096)
    backbone = PixArt(transformer.eval().to("cuda", dtype))
    x = torch.randn(batch, tokens, WIDTH, device="cuda", dtype=dtype)
    kept = x[:, :k].contiguous()
    rest = {
        "encoder_hidden_states": torch.randn(batch, TEXT, WIDTH, device="cuda", dtype=dtype),
        "timestep": torch.randn(batch, 6 * WIDTH, device="cuda", dtype=dtype),
    }
    weight = torch.randn(WIDTH, device="cuda", dtype=dtype)
    noise = torch.randn(batch, tokens, device="cuda")
    routed = Routed("none", noise=lambda call: noise[:, : call.x.shape[1]])
    dense = backbone.blocks[0].forward

    def block(call: Call) -> torch.Tensor:
        return routed.block(call, weight, k)

    with routed.on(backbone, block), backbone.at(Step(0, 20, 500.0)):
        transformer(**backbone.inputs(batch, text_tokens=TEXT))  # which tells the backbone its grid
        compare(
            {
                "block: dense": lambda: dense(x, **rest),
                "block: dense on kept tokens": lambda: dense(kept, **rest),
                "block: routed, plain": plainly(lambda: backbone.blocks[0](x, **rest)),
                "block: routed, fused": lambda: backbone.blocks[0](x, **rest),
            },
            rounds,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2, help="rows: both CFG halves count")
    parser.add_argument("--tokens", type=int, default=1024, help="a square number")
    parser.add_argument("--ratio", type=float, default=0.2)
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    with torch.no_grad():
        if not torch.cuda.is_available() or not routing.usable(torch.empty(1, device="cuda", dtype=dtype)):
            print("the kernels need a CUDA device that Triton knows", file=sys.stderr)
            raise SystemExit(2)
        k = kept_count(args.ratio, args.tokens)
        print(f"{torch.cuda.get_device_name()}, {args.dtype}, {args.batch} rows, {k} of {args.tokens} tokens")
        operations(args.batch, args.tokens, k, dtype, args.rounds)
        blocks(args.batch, args.tokens, k, dtype, args.rounds)


if __name__ == "__main__":
    main()
