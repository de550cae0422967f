"""`python -m harness maps`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import Device, Plugins, floats, load_plugins


def maps(
    methods: Annotated[str, typer.Option(help="Methods, comma-separated.")] = "diffcr",
    model: Annotated[
        str | None, typer.Option(help="Zoo model or pipeline folder. [default: the task's own]", show_default=False)
    ] = None,
    task: Annotated[str, typer.Option(help="text-to-image or inpainting.")] = "text-to-image",
    ratios: Annotated[str, typer.Option(help="Compression ratios.")] = "0.3",
    case: Annotated[int, typer.Option(min=0, help="Which of the task's cases to draw, from 0.")] = 0,
    prompts: Annotated[Path | None, typer.Option(help="Text file with one prompt per line.")] = None,
    adapters: Annotated[list[Path] | None, typer.Option(help="Folder of fitted adapters; may be repeated.")] = None,
    device: Device = None,
    plugin: Plugins = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("results") / "maps",
) -> None:
    """Draw which tokens each method keeps, by layer and step, while one image forms; router scores and learned ratios
    where a method has them."""
    from harness import config, plan
    from harness.token_maps import draw

    load_plugins(plugin)
    values = {
        "methods": methods, "model": model or "", "task": task, "ratios": floats("--ratios", ratios),
        "cases": max(2, case + 1), "prompts": prompts, "adapters": tuple(adapters or ()), "device": device or "cpu",
    }  # fmt: skip
    for made in plan.make(config.build(values)):
        for point in made.points[1:]:
            written = draw(made, point, made.cases[case], out)
            print("\n".join(f"wrote {path}" for path in written) or f"{point.label}: no layer leaves a token out")
