"""`python -m harness recommend`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.endings import CLOSEST
from harness.errors import UserError


def recommend(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of one workload.")],
    most: Annotated[
        list[str] | None,
        typer.Option(
            "--max", help="COST=LIMIT relative to dense: latency=0.8, gmacs=80%, memory=0.9; may be repeated."
        ),
    ] = None,
    least: Annotated[
        list[str] | None,
        typer.Option(
            "--min",
            help="METRIC=LIMIT: truth=-1% (at most 1 % worse than dense, whatever its direction), or a level in "
            "the metric's unit, such as psnr_to_dense=30dB; may be repeated.",
        ),
    ] = None,
) -> None:
    """Name the settings that meet a budget, with the probability that they do, and the line that puts them to use."""
    from results.analysis.bounds import BadBound
    from results.analysis.differences import NotComparable
    from results.recommend import NothingMeets, recommended
    from results.store import StoreError
    from results.tables.recommend import show

    try:
        found = recommended(runs, most or (), least or ())
    except NothingMeets as nothing:
        print(nothing)
        raise typer.Exit(CLOSEST) from None
    except (StoreError, NotComparable, BadBound) as error:
        raise UserError(str(error)) from error
    show(found)
