"""`python -m harness check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness import registry
from harness.cli.endings import FAILED
from harness.cli.options import Plugins, load_plugins, pair
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.contract import Report

_SHOWN = {"passed": "yes", "failed": "NO", "refused": "refused", "not checked": "-"}


def check(
    what: Annotated[str, typer.Argument(help="A method's name, or a Python file that registers one.")],
    method: Annotated[
        str | None, typer.Option(help="Which method of a file that registers several.", show_default=False)
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE of the method; may be repeated.")
    ] = None,
    family: Annotated[
        list[str] | None,
        typer.Option(help="Family of backbones; may be repeated. [default: all]", show_default=False),
    ] = None,
    pairs: Annotated[
        bool, typer.Option(help="Also check it together with every other method, which takes most of the time.")
    ] = True,
    plugin: Plugins = None,
) -> None:
    """Check that a method keeps the contract of methods, on a tiny random model of each family of backbones: output
    shapes, dense at ratio 0, exact removal, the same bits for the same case, no state between images, composition.

    Exit codes: 0, all that could be checked passed; 1, something failed; 2, bad input.
    """
    load_plugins(plugin)
    name = _name(what, method)
    registry.methods.get(name)  # an unknown name is told before torch loads
    from harness.cli.progress import console
    from harness.contract import check_method

    given = dict(pair(text) for text in setting or [])
    with console.status(f"checking {name}") as status:
        found = check_method(
            name, given, families=family or (), pairs=pairs, progress=lambda what: status.update(f"checking {what}")
        )
    _show(found)
    if not found.passed:
        raise typer.Exit(FAILED)


def _name(what: str, method: str | None) -> str:
    """The method to check. Raises UserError where a file registers none, or several and none is chosen."""
    path = Path(what)
    if path.suffix != ".py" and not path.exists():
        if method is not None:
            raise UserError("--method chooses one of a file's methods; give the file, or leave it out")
        return what
    registry.load_plugin(path)
    names = registry.methods.of_file(path)
    if method is not None:
        if method not in names:
            raise UserError(f"{path} registers no method {method!r}; it registers {', '.join(names) or 'none'}")
        return method
    if len(names) != 1:
        raise UserError(
            f"{path} registers {', '.join(names)}: choose one with --method"
            if names
            else f"{path} registers no method; put @harness.methods.register('NAME') before its class"
        )
    return names[0]


def _show(found: Report) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    families = list(dict.fromkeys(one.about for one in found.families))
    checks = list(dict.fromkeys(one.check for one in found.families))
    by = {(one.check, one.about): one.outcome for one in found.families}
    table = Table("check", *families, title=f"the contract of methods: {found.method}", box=box.SIMPLE)
    for check in checks:
        table.add_row(check, *(_SHOWN[by[check, family]] for family in families))
    console.print(table)
    together = {how: [one for one in found.pairs if one.outcome == how] for how in _SHOWN}
    lines = [f"composes with: {', '.join(one.about for one in together['passed']) or 'none'}"] if found.pairs else []
    lines += [f"composition refused: {one.about}: {one.reason}" for one in together["refused"]]
    skipped = [one for one in (*found.families, *found.pairs) if one.outcome == "not checked"]
    lines += dict.fromkeys(
        f"not checked: {one.check}{f' with {one.about}' if one in found.pairs else ''}: {one.reason}" for one in skipped
    )
    lines += dict.fromkeys(f"refused: {one.about}: {one.reason}" for one in found.families if one.outcome == "refused")
    lines += [f"FAILED: {one.check}, {one.about}: {one.reason}" for one in found.failed]
    if not found.failed and not found.passed:
        lines.append("nothing could be checked")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
