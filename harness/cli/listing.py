"""`python -m harness list`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table as RichTable

from harness import registry
from harness.cli.options import Plugins, load_plugins
from harness.errors import UserError, unknown


def list_(
    what: Annotated[str, typer.Argument(help="methods, tasks, models or metrics")],
    markdown: Annotated[bool, typer.Option("--markdown", help="The whole reference, of methods or metrics.")] = False,
    plugin: Plugins = None,
) -> None:
    """List what is registered, with its settings."""
    load_plugins(plugin)
    kinds = {"methods": registry.methods, "tasks": registry.tasks, "metrics": registry.metrics}
    if what == "models":
        from harness.models import names, random_init
        from harness.models.loading import RANDOM

        unfit = (f"{RANDOM}{name}  (random weights: for profile alone)" for name in random_init.names())
        print("\n".join([*names(), *unfit]))
        return
    if markdown:
        from harness.catalog import methods_markdown, metrics_markdown

        written = {"methods": methods_markdown, "metrics": metrics_markdown}
        if what not in written:
            raise UserError("--markdown is for methods and metrics: python -m harness list methods --markdown")
        print(written[what](), end="")
        return
    if what not in kinds:
        raise unknown("kind", what, [*kinds, "models"])
    table = RichTable("name", "what it is", "settings", title=what)
    for name in kinds[what]:
        cls = kinds[what].get(name)
        about = " ".join((cls.__doc__ or "").split())
        fields = getattr(getattr(cls, "Settings", None), "model_fields", {})
        table.add_row(name, about, "\n".join(f"{key}: {field.description or ''}" for key, field in fields.items()))
    Console().print(table)
