"""`python -m harness new`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def new(
    kind: Annotated[str, typer.Argument(help="method, metric, task or backbone")],
    name: Annotated[str, typer.Argument(help="What it is called, for instance my-method.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write. [default: one of that name, here]", show_default=False)
    ] = None,
) -> None:
    """Write a working method, metric, task or backbone to begin with: one file, its test, and a pyproject.toml that
    registers it. Nothing is written over."""
    from harness import scaffold

    written = scaffold.new(kind, name, out)
    print(f"written: {written.source}, {written.test}, {written.project}. Next:")
    print("\n".join(f"  {command}" for command in written.commands))
