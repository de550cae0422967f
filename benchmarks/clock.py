"""Coverage of latency intervals on this machine: how many intervals of dense against dense hold 1.

    python benchmarks/clock.py [--sessions 400] [--rounds 12] [--model FOLDER]

The model is a small untrained one (3 layers, width 32), so that 400 sessions take minutes; what is tested is the
interval, which does not depend on the model. Prints the share that holds 1, with its binomial 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from diffusers import PixArtSigmaPipeline
from scipy.stats import binomtest

from harness import clock, cost
from harness.models import load
from harness.zoo.shapes import networks
from methods.dense import Dense
from tasks.text_to_image import TextToImage


def tiny(folder: Path) -> Path:
    torch.manual_seed(0)
    PixArtSigmaPipeline(
        tokenizer=networks.tokenizer(), text_encoder=networks.text_encoder(), vae=networks.vae(),
        transformer=networks.transformer(width=32, layers=3, heads=2), scheduler=networks.scheduler(),
    ).save_pretrained(folder)  # fmt: skip
    call = {"height": 64, "width": 64, "clean_caption": False, "use_resolution_binning": False,
            "max_sequence_length": networks.TEXT_TOKENS}  # fmt: skip
    (folder / "harness.json").write_text(json.dumps({"scenes": "shapes", "call": call}))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--model", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model = load(str(given.model or tiny(Path(scratch))))
        model.pipeline.set_progress_bar_config(disable=True)
        task = TextToImage(model, steps=given.steps, guidance=2.0)
        cases = task.cases(1)
        task.prepare(cases)
        found = clock.calibrate(cost.Subject(model, task, cases), Dense(), given.sessions, given.rounds)
    share = binomtest(round(found.inside * found.sessions), found.sessions).proportion_ci()
    print(
        f"{found.sessions} sessions of {given.rounds} pairs: {100 * found.inside:.1f} % of the intervals hold 1 "
        f"[{100 * share.low:.1f}, {100 * share.high:.1f}]; median width {100 * found.width:.1f} %; "
        f"95 % of the ratios within {100 * found.floor:.1f} % of 1"
    )


if __name__ == "__main__":
    main()
