"""`python -m harness maps`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.options import Plugins, load_plugins, options_of, writable
from harness.errors import UserError
from harness.sweep import Sweep

_KEPT = ("methods", "model", "variant", "revision", "task", "ratios", "prompts", "adapters", "device", "dtype")


@options_of(Sweep, skip=set(Sweep.model_fields) - set(_KEPT))
def maps(
    given: dict[str, Any],
    *,
    case: Annotated[int, typer.Option(min=0, help="Which of the task's cases to draw, from 0.")] = 0,
    plugin: Plugins = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("results") / "maps",
) -> None:
    """Draw which tokens each method keeps, by layer and step, while one image forms; router scores and learned ratios
    where a method has them."""
    load_plugins(plugin)
    from harness import config, plan, token_maps
    from harness.models import adapters
    from results.plots.token_maps import draw

    sweep = config.build({"methods": "diffcr", "ratios": (0.3,), **given, "cases": max(2, case + 1)})
    writable(out)
    for planned in plan.make(sweep):
        opened = planned.opened
        if case >= len(opened.cases):
            raise UserError(f"--case {case}: there are {len(opened.cases)} cases, counted from 0")
        for point in planned.points[1:]:
            method = opened.method(point)
            state = adapters.state_of(method, opened.model)
            found = token_maps.record(opened.model, opened.task, opened.cases[case], method, state)
            written = draw(found, point.label, out)
            print("\n".join(f"wrote {path}" for path in written) or f"{point.label}: no layer leaves a token out")
