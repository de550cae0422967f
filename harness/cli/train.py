"""`python -m harness train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import Device, pair, validated
from harness.errors import unknown


def train(
    name: Annotated[str, typer.Argument(help="Zoo model to train.")] = "shapes",
    work: Annotated[Path, typer.Option(help="Folder for checkpoints; training goes on from what it holds.")] = Path(
        "train"
    ),
    out: Annotated[
        Path | None, typer.Option(help="Where the weights go. [default: the package's own folder]", show_default=False)
    ] = None,
    device: Device = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE of the recipe, for instance steps=20000.")
    ] = None,
) -> None:
    """Make a zoo model from nothing but its renderer."""
    from accelerate import Accelerator

    if name != "shapes":
        raise unknown("zoo model", name, ["shapes"])
    from harness.zoo.shapes import judge
    from harness.zoo.shapes.make import make
    from harness.zoo.shapes.recipe import Recipe

    chosen = validated(Recipe, dict(pair(text) for text in setting or []))
    make(chosen, work, out or judge.WEIGHTS.parent, Accelerator(cpu=(device or "cpu") == "cpu"))
