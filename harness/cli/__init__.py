"""`python -m harness`: one file per command."""

from __future__ import annotations

import os
import warnings
from typing import Annotated

import typer

from harness.cli import attribute, fit, listing, maps, profile, published, run, train
from harness.cli.endings import DEBUG, ended, terminable

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
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of what goes wrong.")] = False,
) -> None:
    DEBUG.set(debug)
    if version:
        from harness import __version__

        print(__version__)
        raise typer.Exit


app.command("run")(ended(run.run))
app.command("attribute")(ended(attribute.attribute))
app.command("profile")(ended(profile.profile))
app.command("published")(ended(published.published))
app.command("fit")(ended(fit.fit))
app.command("train")(ended(train.train))
app.command("maps")(ended(maps.maps))
app.command("list")(ended(listing.list_))


def main() -> None:
    """Entry point; how commands end stands in `harness.cli.endings`."""
    warnings.filterwarnings("ignore", module=r"(?!harness|methods|tasks|results)")
    with terminable():
        app()
