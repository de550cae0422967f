"""`python -m harness list`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from harness import registry
from harness.cli.options import Plugins, load_plugins
from harness.errors import UserError, unknown

_KINDS = {
    "methods": registry.methods, "metrics": registry.metrics, "tasks": registry.tasks, "backbones": registry.backbones,
}  # fmt: skip
_MODELS = "models"


def list_(
    what: Annotated[str, typer.Argument(help="methods, metrics, tasks, backbones or models")],
    name: Annotated[
        str | None, typer.Argument(help="One of them: settings, defaults, source, adapters.", show_default=False)
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="The whole reference, of methods or metrics.")] = False,
    plugin: Plugins = None,
) -> None:
    """List what is registered, a line each; with a name, all there is to know of that one."""
    if what not in (*_KINDS, _MODELS):
        raise unknown("kind", what, [*_KINDS, _MODELS])
    load_plugins(plugin)
    if markdown:
        _markdown(what, name)
    elif name is not None:
        _one(what, name)
    elif what == _MODELS:
        from harness.models import names, random_init
        from harness.models.loading import RANDOM

        unfit = (f"{RANDOM}{name}  (random weights: for profile alone)" for name in random_init.names())
        print("\n".join([*names(), *unfit]))
    else:
        _short(what)


def _markdown(what: str, name: str | None) -> None:
    from harness.catalog import methods_markdown, metrics_markdown

    written: dict[str, Callable[[], str]] = {"methods": methods_markdown, "metrics": metrics_markdown}
    if what not in written or name is not None:
        raise UserError("--markdown is for all methods or all metrics: python -m harness list methods --markdown")
    print(written[what](), end="")


def _short(what: str) -> None:
    from harness.catalog import columns_of, first_sentence

    further = {"metrics": "columns", "backbones": "transformer classes"}.get(what)
    table = RichTable("name", "what it is", *([further] if further else []), box=box.SIMPLE)
    for name in _KINDS[what]:
        cls = _KINDS[what].get(name)
        about = cls.about if what == "metrics" else first_sentence(cls)
        more: list[str] = []
        if what == "metrics":
            more = [", ".join(columns_of(cls))]
        elif what == "backbones":
            more = [", ".join(sorted(cls.classes))]
        table.add_row(name, *map(escape, (about, *more)))
    console = Console()
    console.print(table)
    console.print(f"python -m harness list {what} NAME says more of one", highlight=False)


def _one(what: str, name: str) -> None:
    from harness import catalog

    if what == _MODELS:
        facts, fields = catalog.model_facts(name), []
        about = ""
    else:
        cls: Any = _KINDS[what].get(name)
        facts, fields = catalog.facts_of(what, cls), catalog.settings_of(cls)
        about = catalog.about(cls)
    console = Console()
    for line in (name, about, *(f"{label}: {value}" for label, value in facts.items())):
        if line:
            console.print(line, highlight=False, markup=False)
    if fields:
        table = RichTable("setting", "default", "what it is", box=box.SIMPLE)
        for row in fields:
            table.add_row(*row)
        console.print(table)
