"""The command line that makes a point again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from results.analysis import modes
from results.record import Record
from results.tables.step_costs import TASK

_OPTIONS = ("task", "model", "variant", "revision", "device", "dtype", "cases", "seed", "split", "steps", "guidance",
            "batch", "rounds", "prompts", "data")  # fmt: skip


def command(record: Record, workload: Mapping[str, Any]) -> str:
    """workload: what the run's store says of all its points; empty where it says nothing, and the record has to do.
    Adapters are found by name, so those of a folder of one's own need `--adapters` beside it."""
    kind = "profile" if record.task == TASK else "run"
    known = dict(workload) or {
        "task": record.task.replace("_", "-"), "model": record.model, "device": record.device, "dtype": record.dtype,
        "cases": record.n_cases, "steps": record.steps,
    }  # fmt: skip
    words = ["python", "-m", "harness", kind, "--methods", record.method]
    if record.ratio is not None:
        words += ["--ratios", f"{record.ratio:.12g}"]
    for name in _OPTIONS if kind == "run" else ("model", "variant", "revision", "device", "dtype", "rounds"):
        if known.get(name) is not None:
            words += [f"--{name}", str(known[name])]
    words += _settings(record)
    timed = modes.of(record.estimates)
    if kind == "run":
        words += ["--mode", ",".join(timed)] if set(timed) - {modes.EAGER} else []
        for name, value in record.task_settings.items():
            words += ["--task-set", f"{name}={_yaml(value)}"]
        metrics = known.get("metrics")
        words += ["--metrics", ",".join(metrics)] if isinstance(metrics, list) else []
        settings = known.get("metric_settings")
        for metric, own in (settings if isinstance(settings, dict) else {}).items():
            for name, value in own.items() if isinstance(own, dict) else ():
                words += ["--metric-set", f"{metric}.{name}={value}"]
    else:
        given = {name: known.get(name) for name in ("text_tokens", "mask_tokens")}
        for name, value in (record.task_settings | given).items():
            if name in ("batch", "size", "text_tokens", "mask_tokens", "mode") and value is not None:
                words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _settings(record: Record) -> Iterator[str]:
    for name, value in record.settings.items():
        if name != "ratio" or record.ratio is None:
            yield from ("--set", f"{record.method}.{name}={_yaml(value)}")


def _yaml(value: object) -> str:
    """JSON, which YAML reads as it is; plain text where YAML leaves it plain."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    bare = text[1:-1]
    return bare if isinstance(value, str) and bare.replace("-", "").isalpha() and not _special(bare) else text


def _special(text: str) -> bool:
    return text.lower() in ("true", "false", "yes", "no", "on", "off", "null", "y", "n", "nan", "inf")
