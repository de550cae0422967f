"""`python -m harness compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.errors import UserError

BEYOND = 3
"""Exit code where a condition of --fail-if is not excluded."""


def compare(
    a: Annotated[
        str, typer.Argument(help="What is judged: a run folder, or RUN:POINT, such as results/runs/x:diffcr@0.2")
    ],
    b: Annotated[str, typer.Argument(help="What it is measured against, likewise.")],
    force: Annotated[
        bool, typer.Option("--force", help="Compare different workloads, too; what differs is shown.")
    ] = False,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-if",
            help="Condition on A less B, such as 'truth>+2%' or 'latency>+5%' (of B's, or in the metric's unit): exit "
            "code 3 unless the 95 % interval excludes it. May be repeated.",
        ),
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Markdown file to write, for a pull request.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="JSON file to write; its schema: docs/schemas/compare.json.")
    ] = None,
) -> None:
    """Say what is different between two runs, or two points: every metric paired by image, latency and cost."""
    from results.analysis.bounds import BadBound
    from results.analysis.differences import NotComparable
    from results.compare import OtherWorkloads, compare_runs
    from results.files import write_atomic
    from results.store import StoreError
    from results.tables.compare import document

    try:
        found = compare_runs(a, b, force=force, fail_if=fail_if or ())
    except OtherWorkloads as error:
        raise UserError(f"{error}: {'; '.join(error.differing)}. --force compares them all the same") from error
    except (StoreError, NotComparable, BadBound) as error:
        raise UserError(str(error)) from error
    text = document(found)
    print(text, end="")
    if markdown is not None:
        write_atomic(markdown, text)
    if json_file is not None:
        write_atomic(json_file, found.model_dump_json(indent=1) + "\n")
    if found.failed:
        raise typer.Exit(BEYOND)
