"""`python -m harness fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from harness import registry
from harness.cli.grouped import WORK
from harness.cli.options import Device, Plugins, load_plugins, pair, validated, writable
from harness.errors import UserError, unknown

SELF = "self"


def fit(
    method: Annotated[str, typer.Argument(help="Method to fit.")],
    model: Annotated[str, typer.Option(help="Model to fit it on.")] = "shapes",
    ratio: Annotated[
        float | None,
        typer.Option(help="Compression ratio to fit to; --set stage=0.1 climbs there by 10 %, with an adapter each."),
    ] = None,
    axes: Annotated[str | None, typer.Option(help="Shorthand for --set axes=..., where the method has it.")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|self",
            help="Folder of images with metadata.jsonl (file_name, text) or a .txt beside each; self: latents that the "
            "model itself generates for --prompts. [default: the zoo model's own scenes]",
            show_default=False,
            rich_help_panel=WORK,
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="Text file for --data self, one prompt per line.", rich_help_panel=WORK),
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out files of --data that are no good.")] = False,
    lora_rank: Annotated[int | None, typer.Option(help="Shorthand for --set lora_rank=...")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE of the method, its fit, or the loop.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the adapters.")] = Path("adapters"),
    device: Device = None,
    plugin: Plugins = None,
) -> None:
    """Fit a method's routers, ratios and LoRA on a model. An interrupted fit goes on where it stopped."""
    from harness.config import method_of
    from harness.fitting.generated import read_prompts
    from harness.fitting.options import FitOptions
    from harness.fitting.request import Request, stages
    from harness.models import adapters

    load_plugins(plugin)
    cls = registry.methods.get(method)
    pairs = dict(pair(text) for text in setting or [])
    pairs |= {name: value for name, value in {"axes": axes, "lora_rank": lora_rank}.items() if value is not None}
    groups: dict[Any, dict[str, Any]] = {cls.Settings: {}, cls.FitSettings: {}, FitOptions: {}}
    for name, value in pairs.items():
        owner = next((kind for kind in groups if name in kind.model_fields), None)
        if owner is None:
            raise unknown("setting", name, {field for kind in groups for field in kind.model_fields})
        groups[owner][name] = value
    own_ratio = groups[cls.Settings].pop("ratio", None)
    if own_ratio is not None and ratio is not None:
        raise UserError("--ratio and --set ratio=... were both given; leave one of them out")
    if own_ratio is not None:
        ratio = method_of(method, {"ratio": own_ratio}).ratio
    options = validated(FitOptions, groups[FitOptions])
    request = Request(
        method=method,
        settings=groups[cls.Settings],
        ratios=stages(0.3 if ratio is None else ratio, options.stage),
        options=options,
        own=validated(cls.FitSettings, groups[cls.FitSettings]),
    )
    request.check()
    if data == SELF:
        read_prompts(prompts)
    elif prompts is not None:
        raise UserError(
            f"--prompts is for --data {SELF}, latents that the model itself generates; give that, or a folder"
        )
    writable(out)
    folder = None if data in (None, SELF) else Path(str(data))
    paths = request.run(model, out, device=device or "cpu", data=folder, skip_bad=skip_bad, prompts=prompts, say=print)
    for path in paths:
        print(f"wrote {path}")
    if paths:
        print(f"to use it: {adapters.run_command(request.methods[-1], model, out)}")
