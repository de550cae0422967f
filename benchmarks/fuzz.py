"""Ten thousand inputs over every reader of files: each gives something, or one line on what is wrong.

    python benchmarks/fuzz.py                       # 10,000 in all, in about a quarter of an hour
    python benchmarks/fuzz.py --inputs 1000 --only store,adapter --seed 7

The readers and what they are fed stand in `tests/readers.py`; `tests/test_fuzz.py` is the short form. Prints the inputs
of each reader, how many it refused, and what it raised instead where it failed, with the smallest such input.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from readers import KNOWN, READERS, Reader


def main(
    inputs: Annotated[int, typer.Option(help="Inputs in all.")] = 10_000,
    only: Annotated[str, typer.Option(help="Names of readers, comma-separated. [default: all]")] = "",
    start: Annotated[int, typer.Option("--seed", help="Of the inputs.")] = 0,
) -> None:
    """Feed every reader its share, and exit with 1 where one failed."""
    chosen = [reader for reader in READERS if not only or reader.name in only.split(",")]
    share = -(-inputs // len(chosen))
    failed = [reader.name for reader in chosen if not _feed(reader, share, start)]
    print(f"{len(chosen)} readers, {share} inputs each; failed: {', '.join(failed) or 'none'}")
    if failed:
        raise typer.Exit(1)


def _feed(reader: Reader, share: int, start: int) -> bool:
    counts = {"read": 0, "refused": 0}

    @seed(start)
    @settings(max_examples=share, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def one(data: st.DataObject) -> None:
        content = data.draw(reader.inputs)
        with TemporaryDirectory() as folder:
            try:
                reader.read(content, Path(folder))
                counts["read"] += 1
            except KNOWN:
                counts["refused"] += 1

    try:
        one()
    except Exception:
        print(f"{reader.name}: failed\n{traceback.format_exc()}", flush=True)
        return False
    print(f"{reader.name}: {counts['read']} read, {counts['refused']} refused", flush=True)
    return True


if __name__ == "__main__":
    typer.run(main)
