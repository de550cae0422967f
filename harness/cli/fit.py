"""`python -m harness fit`."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from harness import registry
from harness.cli.options import Device, Plugins, load_plugins, pair, validated
from harness.errors import UserError, unknown


def fit(
    method: Annotated[str, typer.Argument(help="Method to fit.")],
    model: Annotated[str, typer.Option(help="Model to fit it on.")] = "shapes",
    ratio: Annotated[
        float | None, typer.Option(help="Highest compression ratio; the fit climbs there in stages of 10 %.")
    ] = None,
    axes: Annotated[str | None, typer.Option(help="Shorthand for --set axes=..., where the method has it.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images with metadata.jsonl (file_name, text) or a .txt beside each. "
            "[default: the zoo model's own scenes]",
            show_default=False,
        ),
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
    from accelerate import Accelerator

    from harness.config import MethodSpec, settings_of
    from harness.models import load
    from harness.training.fit import FitOptions, data_for
    from harness.training.fit import fit as run_fit
    from results.fits import trajectories

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
    options = validated(FitOptions, groups[FitOptions])
    ratios = _stages(ratio, options.stage) if "ratio" in cls.Settings.model_fields else (0.0,)
    spec = MethodSpec(name=method, settings={k: v for k, v in groups[cls.Settings].items() if k != "ratio"})
    objects = settings_of(spec, ratios)
    objects = list({o.adapter(): o for o in objects}.values())
    own = validated(cls.FitSettings, groups[cls.FitSettings])
    loaded = load(model, device=device or "cpu")
    trains = objects[0].fitting(loaded.backbone, 20, own).trains
    chosen = [method, spec.settings, list(ratios), options.model_dump(), own.model_dump(), loaded.digest, str(data)]
    fits = Path("results") / "runs" / "fits"
    work = fits / f"{method}-{hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:8]}"
    samples = data_for(loaded, options, trains=trains, folder=data, work=fits, skip_bad=skip_bad)
    paths = run_fit(
        objects, loaded, options, samples, out, work, own=own,
        accelerator=Accelerator(cpu=(device or "cpu") == "cpu"),
    )  # fmt: skip
    logs = [work / f"{one.adapter()}.csv" for one in objects]
    if drawn := trajectories(logs, work / "ratios.png", title=f"{method}: ratios during the fit"):
        paths.append(drawn)
    print("\n".join(f"wrote {path}" for path in paths))


def _stages(ratio: float | None, stage: float) -> tuple[float, ...]:
    """Rising targets that are `stage` apart, the last one being `ratio`."""
    top = 0.3 if ratio is None else ratio
    if not 0 < top <= 0.9:
        raise UserError(f"--ratio must lie in (0, 0.9], got {top:g} (0.2 means 20 %)")
    rising = [round(i * stage, 4) for i in range(1, math.ceil(top / stage)) if i * stage < top - 1e-9]
    return (*rising, top)
