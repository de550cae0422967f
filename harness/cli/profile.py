"""`python -m harness profile`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from harness.cli.options import Plugins, floats, load_plugins, whole, with_settings

console = Console(stderr=True)


def profile(
    model: Annotated[
        str, typer.Option(help="random:NAME (a true architecture, random weights), a zoo model or a pipeline folder.")
    ] = "random:pixart-sigma-512",
    methods: Annotated[str, typer.Option(help="Methods, comma-separated; a+b; all.")] = "uniform,tome,diffcr",
    ratios: Annotated[str, typer.Option(help="Compression ratios.")] = "0.1,0.2,0.3",
    batch: Annotated[str, typer.Option(help="Images per batch; every one is measured.")] = "1",
    size: Annotated[
        str | None, typer.Option(help="Sides of the latents. [default: the model's own]", show_default=False)
    ] = None,
    text_tokens: Annotated[
        int | None, typer.Option(help="Text tokens. [default: the model's own]", show_default=False)
    ] = None,
    mask_tokens: Annotated[
        int | None, typer.Option(help="Tokens to generate, for lazydiffusion. [default: all]", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N, or meta, which counts alone.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    rounds: Annotated[int, typer.Option(help="Rounds of the interleaved latency measurement.")] = 6,
    ratio_table: Annotated[
        Path | None, typer.Option(help="CSV of layer, region, ratio, for methods whose ratios are learned (diffcr).")
    ] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="METHOD.NAME=VALUE; may be repeated.")] = None,
    adapters: Annotated[list[Path] | None, typer.Option(help="Folder of fitted adapters; may be repeated.")] = None,
    plugin: Plugins = None,
    out: Annotated[Path | None, typer.Option(help="CSV file to write.")] = None,
) -> None:
    """Measure what methods cost on one denoiser step: GMACs, latency against dense, memory, energy, share by part."""
    load_plugins(plugin)
    from harness import profiling
    from results.tables import step_costs

    values: dict[str, Any] = {
        "model": model, "methods": methods, "ratios": floats("--ratios", ratios), "batch": whole("--batch", batch),
        "size": whole("--size", size) or (), "text_tokens": text_tokens, "mask_tokens": mask_tokens, "device": device,
        "dtype": dtype, "rounds": rounds, "ratio_table": ratio_table, "adapters": adapters or (),
    }  # fmt: skip
    asked = with_settings(profiling.build(values), setting or [])

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False)

    def done(record: Any) -> None:
        ratio = "" if record.ratio is None else f" {100 * record.ratio:g} %"
        note = record.outcome if record.outcome == "ok" else f"{record.outcome}: {record.reason}"
        say(f"{record.method}{ratio}, batch {record.task_settings['batch']}: {note} ({record.seconds:.0f} s)")

    table = profiling.run(asked, say, done)
    step_costs.show(table, Console())
    if out is not None:
        step_costs.to_csv(table, out)
        print(f"written to {out}")
    if table.failed():
        raise typer.Exit(1)
