"""The denoiser's latency relative to dense beside the ratio of true GMACs, at real size.

    python benchmarks/denoiser.py [--device cpu|cuda] [--batch 1] [--rounds 10] [--dtype float32]

PixArt-Sigma XL/2 at 512 x 512 with random weights, 120 text tokens, both CFG halves: routing at 20 and 30 %, and ToMe,
each interleaved with dense. The last column is latency over GMACs: 1 is a step that got as much faster as it got
cheaper.
"""

from __future__ import annotations

import argparse

import harness


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", default="", help="images per batch [1; on cuda 1,16]")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--dtype", default="", help="[float32; on cuda bfloat16]")
    parser.add_argument("--model", default="random:pixart-sigma-512")
    args = parser.parse_args()
    cuda = args.device.startswith("cuda")
    batches = [int(size) for size in (args.batch or ("1,16" if cuda else "1")).split(",")]
    table = harness.profile(
        model=args.model, methods=["uniform", "tome"], ratios=[0.2, 0.3], batch=batches, device=args.device,
        dtype=args.dtype or ("bfloat16" if cuda else "float32"), rounds=args.rounds,
    )  # fmt: skip
    dense: dict[int, float] = {}
    for record in table.records:
        batch = record.task_settings["batch"]
        name = f"batch {batch}, {record.method} {100 * (record.ratio or 0):g} %"
        if record.outcome != "ok":
            print(f"{name}: {record.reason}")
            continue
        latency, gmacs = record.estimates["latency_ratio"], record.estimates["gmacs"].value
        cost = gmacs / dense.setdefault(batch, gmacs)
        print(
            f"{name}: latency {latency.value:.3f} [{latency.low:.3f}, {latency.high:.3f}], GMACs {cost:.3f} of dense, "
            f"latency / GMACs {latency.value / cost:.3f} ({latency.n} rounds)"
        )


if __name__ == "__main__":
    main()
