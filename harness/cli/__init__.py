"""`python -m harness`: one file per command."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from harness.cli import (
    attribute,
    calibrate_clock,
    check,
    compare,
    data,
    devices,
    doctor,
    fit,
    listing,
    maps,
    merge,
    new,
    profile,
    published,
    recommend,
    report,
    run,
    runs,
    train,
    watch,
)
from harness.cli.endings import DEBUG, ended, terminable
from harness.cli.grouped import Grouped

# Before torch loads: its profiler and allocator would write notes of their own between our lines.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

app = typer.Typer(
    no_args_is_help=True,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # brackets in a help text are brackets
    help="Compare methods that make Diffusion Transformers cheaper: quality against FLOPs, latency and memory.",
)


@app.callback()
def _program(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of what goes wrong.")] = False,
) -> None:
    DEBUG.set(debug)
    if version:
        from harness import __version__

        print(__version__)
        raise typer.Exit


_COMMANDS: dict[str, Callable[..., Any]] = {
    "run": run.run, "compare": compare.compare, "recommend": recommend.recommend,
    "report": report.report, "watch": watch.watch, "devices": devices.devices, "merge": merge.merge,
    "attribute": attribute.attribute,
    "profile": profile.profile, "calibrate-clock": calibrate_clock.calibrate_clock, "published": published.published,
    "fit": fit.fit, "train": train.train, "data": data.data, "maps": maps.maps, "list": listing.list_,
    "new": new.new, "check": check.check, "doctor": doctor.doctor,
}  # fmt: skip
for _name, _command in _COMMANDS.items():
    app.command(_name, cls=Grouped)(ended(_command))
app.add_typer(runs.app, name="runs")


def main() -> None:
    """Entry point; how commands end stands in `harness.cli.endings`."""
    warnings.filterwarnings("ignore", module=r"(?!harness|methods|tasks|results)")
    with terminable():
        app()
