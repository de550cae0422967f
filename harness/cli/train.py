"""`python -m harness train`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer

from harness import zoo
from harness.cli.options import Device, pair, validated, writable
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
    """Make a zoo model (shapes, shapes-inpaint) from nothing but its renderer."""
    from accelerate import Accelerator

    from harness.models.loading import checked

    recipes = [path.parent.name.replace("_", "-") for path in sorted(Path(zoo.__file__).parent.glob("*/make.py"))]
    if name not in recipes:
        raise unknown("zoo model", name, recipes)
    package = f"harness.zoo.{name.replace('-', '_')}"
    recipe = importlib.import_module(f"{package}.make")
    chosen = validated(recipe.Recipe, dict(pair(text) for text in setting or []))
    weights = out or Path(recipe.__file__ or "").parent / "weights"
    checked(device or "cpu", "float32")
    writable(work, weights)
    recipe.make(chosen, work, weights, Accelerator(cpu=(device or "cpu") == "cpu"))
