"""Twenty random kills each of `run`, `run --isolate` and `fit`: the same final folder as undisturbed, timings apart.

    python benchmarks/kills.py                        # 60 kills, in about half an hour on two quiet cores
    python benchmarks/kills.py --kills 5 --only fit --seed 7

Each trial starts in a new folder, is killed (SIGKILL) once or twice at a random moment between two files, is then
run to its end, and is compared with an undisturbed run: the same files; images, features and adapters bit for bit;
records but for their timings. How it is done stands in `tests/killing.py`; `tests/test_kills.py` is the short form.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from killing import COMMANDS, trial, undisturbed


def main(
    kills: Annotated[int, typer.Option(help="Kills of each command.")] = 20,
    only: Annotated[str, typer.Option(help="Commands, comma-separated. [default: all]")] = "",
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
) -> None:
    """Print a line per trial, and exit with 1 where one left something else."""
    draw, failed = random.Random(seed), 0
    with TemporaryDirectory() as place:
        for name, command in COMMANDS.items():
            if only and name not in only.split(","):
                continue
            reference = undisturbed(command, Path(place) / name / "undisturbed")
            left, number = kills, 0
            while left > 0:
                some = min(left, draw.choice((1, 1, 2)))
                when, found = trial(command, reference, Path(place) / name / str(number), draw, some)
                print(f"{name}, killed {when}: {'; '.join(found) or 'the same'}", flush=True)
                left, number, failed = left - some, number + 1, failed + bool(found)
    print(f"failed trials: {failed}")
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
