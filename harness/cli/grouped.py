"""Help of commands with many options: those of one purpose stand together, under a title."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

METHODS = "Methods and settings"
WORK = "Model, data and sampler"
MEASURED = "What is measured"
MACHINE = "Machine"
OUTPUT = "Run folder"
CONTROL = "How it runs"

_OF_FIELD = {
    **dict.fromkeys(("methods", "ratios", "match", "adapters", "ratio_table"), METHODS),
    **dict.fromkeys(
        ("task", "model", "variant", "revision", "cases", "seed", "split", "steps", "guidance", "prompts", "data",
         "size", "text_tokens", "mask_tokens"),
        WORK,
    ),
    **dict.fromkeys(("metrics", "rounds", "mode"), MEASURED),
    **dict.fromkeys(("device", "dtype", "batch"), MACHINE),
}  # fmt: skip


def group_of(field: str) -> str | None:
    """The title above the option of a pydantic model's field; None: it stands with the general options."""
    return _OF_FIELD.get(field)


class Grouped(TyperCommand):
    """A command whose help puts options under the titles of their `rich_help_panel`, in plain text."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if (row := parameter.get_help_record(ctx)) is not None:
                plain = "Arguments" if parameter.param_type_name == "argument" else "Options"
                groups.setdefault(getattr(parameter, "rich_help_panel", None) or plain, []).append(row)
        plain_options = groups.pop("Options", [])
        for title, rows in (*groups.items(), ("Options", plain_options)):  # --help and its like come last
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
