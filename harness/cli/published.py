"""`python -m harness published`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import writable


def published(
    table: Annotated[str, typer.Argument(help="table1 (text-to-image) or table2 (inpainting)")],
    measured: Annotated[
        Path | None, typer.Option(help="CSV of a profile: its latency and memory stand beside the paper's.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Markdown file to write. [default: print it]")] = None,
) -> None:
    """Put our cost columns beside a published table's."""
    from harness.published.document import write
    from results.files import write_atomic

    if out is not None:
        writable(out.parent)
    text = write(table, measured)
    if out is None:
        print(text, end="")
        return
    write_atomic(out, text)
    print(f"written to {out}")
