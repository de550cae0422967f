"""`python -m harness train`."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Annotated

import typer

from harness import zoo
from harness.cli.grouped import WORK
from harness.cli.options import Device, pair, validated, writable
from harness.errors import UserError, unknown


def train(
    name: Annotated[str, typer.Argument(help="Zoo model to train.")] = "shapes",
    work: Annotated[Path, typer.Option(help="Folder for checkpoints; training goes on from what it holds.")] = Path(
        "train"
    ),
    out: Annotated[
        Path | None, typer.Option(help="Where the weights go. [default: weights, below --work]", show_default=False)
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Pictures that `data` built, for a model that is trained on such (emoji).",
            show_default=False, rich_help_panel=WORK,
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FOLDER", help="Pipeline folder whose weights are trained further (emoji).",
            show_default=False, rich_help_panel=WORK,
        ),
    ] = None,
    device: Device = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE of the recipe, for instance steps=20000.")
    ] = None,
) -> None:  # fmt: skip
    """Make a zoo model: shapes and shapes-inpaint from nothing but their renderer, emoji from --data."""
    from accelerate import Accelerator

    from harness.models.loading import checked, claim

    recipes = [path.parent.name.replace("_", "-") for path in sorted(Path(zoo.__file__).parent.glob("*/make.py"))]
    if name not in recipes:
        raise unknown("zoo model", name, recipes)
    package = f"harness.zoo.{name.replace('-', '_')}"
    recipe = importlib.import_module(f"{package}.make")
    chosen = validated(recipe.Recipe, dict(pair(text) for text in setting or []))
    weights = out or work / "weights"  # never the package's own, which bundled adapters were fitted to
    given = {word: value for word, value in {"data": data, "start": start}.items() if value is not None}
    if refused := given.keys() - inspect.signature(recipe.make).parameters.keys():
        options = " and ".join("--from" if word == "start" else f"--{word}" for word in sorted(refused))
        raise UserError(f"train {name} takes no {options}: it starts from nothing but its renderer; leave it out")
    cpu = (device or "cpu") == "cpu"
    checked(device or "cpu", "float32")
    claim(device or "cpu")  # accelerate takes the current one
    if hasattr(recipe, "check"):  # what a recipe is given, before a folder is made
        recipe.check(data, start)
    writable(work, weights)
    precision = "no" if cpu else getattr(recipe, "PRECISION", "no")
    recipe.make(chosen, work, weights, Accelerator(cpu=cpu, mixed_precision=precision), **given)
