"""`python -m harness`: one file per command."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated

import typer

from harness.cli import (
    attribute,
    calibrate_clock,
    compare,
    fit,
    listing,
    maps,
    profile,
    published,
    recommend,
    run,
    train,
)
from harness.errors import UserError

# Before torch loads: its profiler and allocator would write notes of their own between our lines.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # brackets in a help text are brackets
    help="Compare methods that make Diffusion Transformers cheaper: quality against FLOPs, latency and memory.",
)


@app.callback()
def _program(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    if version:
        from harness import __version__

        print(__version__)
        raise typer.Exit


app.command("run")(run.run)
app.command("compare")(compare.compare)
app.command("recommend")(recommend.recommend)
app.command("attribute")(attribute.attribute)
app.command("calibrate-clock")(calibrate_clock.calibrate_clock)
app.command("profile")(profile.profile)
app.command("published")(published.published)
app.command("fit")(fit.fit)
app.command("train")(train.train)
app.command("maps")(maps.maps)
app.command("list")(listing.list_)


def main() -> None:
    """Entry point: user errors end in one line and exit code 2."""
    warnings.filterwarnings("ignore", module=r"(?!harness|methods|tasks|results)")
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: finished points are kept; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
