"""What is registered, read off the classes themselves: for `list`, docs/methods.md and docs/metrics.md."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from harness import registry
from harness.attach import check
from harness.compose import refusal
from harness.method import Method
from harness.metric import Metric

_TRAINING = {
    "free": "nothing",
    "calibrated": "a calibration, without training",
    "trained": "training (`python -m harness fit`)",
}


def methods_markdown() -> str:
    """The reference of all methods: a table of all, then a section for each."""
    classes: list[type[Method]] = [registry.methods.get(name) for name in registry.methods]
    head = ("method", "what it is", "needs", "strength", "composes with")
    rows = [
        (f"[{cls.name}](#{cls.name})", first_sentence(cls), _TRAINING[cls.training].split(" (")[0], _strength(cls),
         str(sum(not refusal(cls, other) for other in classes)))
        for cls in classes
    ]  # fmt: skip
    intro = (
        "# Methods\n\nWritten from the registry by `python -m harness list methods --markdown`. *Needs*: what has to "
        "be computed once per model. *Strength*: the setting that makes a method cheaper as it grows, which `--match` "
        "tunes to a budget. *Composes with*: how many of the others it runs together with, as `a+b`."
    )
    return "\n\n".join([intro, table(head, rows), *(_section(cls, classes) for cls in classes)]) + "\n"


def metrics_markdown() -> str:
    """The reference of all metrics: a table of all, then a section for each."""
    classes: list[type[Metric]] = [registry.metrics.get(name) for name in registry.metrics]
    rows = [
        (f"[{cls.name}](#{cls.name})", cls.about, ", ".join(f"`{column.name}`" for column in cls.columns))
        for cls in classes
    ]
    intro = (
        "# Metrics\n\nWritten from the registry by `python -m harness list metrics --markdown`. Without `--metrics` "
        "every metric runs that applies to the model and whose weights and reference set are named: nothing is "
        "downloaded. `--metrics a,b` runs these and no others, and stops before anything runs where one of them lacks "
        "something. Settings are given as `--metric-set METRIC.NAME=VALUE`, several metrics at once as "
        "`--metric-set fid,kid.reference=FOLDER`, in a sweep file as `metric_settings: {fid: {reference: FOLDER}}`.\n\n"
        "Every column has `_low` and `_high` beside it: its 95 % interval over images: bootstrap, resampled alike for "
        "all points (shares: Wilson's; in means, images of one prompt or picture together). Extractor, its weights, "
        "resizing and reference set are part of a record's fingerprint, and figures whose fingerprints or cases differ "
        "never share a front."
    )
    sections = [_metric_section(cls) for cls in classes]
    return "\n\n".join([intro, table(("metric", "what it is", "columns"), rows), *sections]) + "\n"


def _metric_section(cls: type[Metric]) -> str:
    facts = [
        f"- Source: {cls.source or 'ours'}",
        f"- Weights: {cls.weights or 'none'}",
        *([f"- To know: {cls.remark}"] if cls.remark else []),
    ]
    rows = [(f"`{c.name}`", c.unit, c.better or "", c.about) for c in cls.columns]
    columns = table(("column", "unit", "better", "convention"), rows)
    fields = [(f"`{name}`", f"`{default}`", what) for name, default, what in settings_of(cls)]
    settings = table(("setting", "default", "what it is"), fields) if fields else "No settings."
    return "\n\n".join([f"## {cls.name}", about(cls), "\n".join(facts), columns, settings])


def _section(cls: type[Method], classes: Sequence[type[Method]]) -> str:
    facts = [f"- {label}: {value}" for label, value in _method_facts(cls, classes).items()]
    fields = [(f"`{name}`", f"`{default}`", what) for name, default, what in settings_of(cls)]
    settings = table(("setting", "default", "what it is"), fields) if fields else "No settings."
    return "\n\n".join([f"## {cls.name}", about(cls), "\n".join(facts), settings])


def _method_facts(cls: type[Method], classes: Sequence[type[Method]]) -> dict[str, str]:
    """By label; the methods that it refuses stand together where the reason is the same."""
    backbones = [name for name in registry.backbones if not check(cls, registry.backbones.get(name))]
    together = [other.name for other in classes if not refusal(cls, other)]
    reasons: dict[str, list[str]] = {}
    for other in classes:
        if other is not cls and (reason := refusal(cls, other)):
            whole = rf"(?<![\w.-]){re.escape(other.name)}(?![\w-])"
            reasons.setdefault(re.sub(whole, "the other", reason), []).append(other.name)
    return {
        "Source": cls.source or "ours",
        "Needs": _TRAINING[cls.training],
        "Backbones": ", ".join(backbones) or "none",
        "Composes with": ", ".join(together) or "none",
        **{f"Not with {', '.join(names)}": reason for reason, names in reasons.items()},
    }


def facts_of(what: str, cls: type[Any]) -> dict[str, str]:
    """What there is to know of one entry beside its settings, by label. what: "methods", "metrics", "tasks" or
    "backbones"."""
    if what == "methods":
        classes = [registry.methods.get(name) for name in registry.methods]
        return {**_method_facts(cls, classes), "Adapters": _adapters(cls.name)}
    if what == "metrics":
        columns = {f"Column {c.name}": f"{c.unit}, {c.better or 'neither is'} better: {c.about}" for c in cls.columns}
        return {
            "Source": cls.source or "ours", "Weights": cls.weights or "none",
            **({"Note": cls.remark} if cls.remark else {}), **columns,
        }  # fmt: skip
    if what == "tasks":
        ratios = ", ".join(f"{ratio:g}" for ratio in cls.default_ratios)
        return {"Default model": cls.default_model or "none", "Default ratios": ratios}
    serves = [name for name in registry.methods if not check(registry.methods.get(name), cls)]
    return {
        "Transformer classes": ", ".join(sorted(cls.classes)), "Parts of every layer": ", ".join(sorted(cls.parts)),
        "Capabilities": ", ".join(sorted(cls.capabilities)) or "none", "Methods": ", ".join(serves) or "none",
    }  # fmt: skip


def model_facts(name: str) -> dict[str, str]:
    """What there is to know of a bundled model, a pipeline folder or an architecture with random weights. Raises
    UserError for an unknown one."""
    from harness.models import load, random_init
    from harness.models.loading import RANDOM

    if name.startswith(RANDOM):
        found = random_init.architecture(name.removeprefix(RANDOM))
        parts = {part: kind.rpartition(".")[2] for part, (kind, _) in found.parts.items()}
        return {
            **parts, "Latents": f"{found.size} x {found.size}",
            "Text tokens": f"{found.text_tokens} ({found.text_source})", "Weights": "random, for profile alone",
        }  # fmt: skip
    model = load(name)
    return {
        "Pipeline": model.kind, "Backbone": model.family.__name__, "Scheduler": model.scheduler,
        "Digest": model.digest[:12], "Adapters": ", ".join(model.adapter_files()) or "none",
    }  # fmt: skip


def _adapters(method: str) -> str:
    """The fitted adapters of a method that come with bundled models."""
    from harness import checkpoints
    from harness.models import load, names

    found = []
    for name in names():
        files = load(name, digest="").adapter_files()
        mine = [stem for stem, path in files.items() if checkpoints.facts(path).get("method") == method]
        if mine:
            found.append(f"{', '.join(mine)} ({name})")
    return "; ".join(found) or "none"


def columns_of(cls: type[Metric]) -> list[str]:
    """The columns that a metric writes."""
    return [column.name for column in cls.columns]


def settings_of(cls: type[Any]) -> list[tuple[str, str, str]]:
    """Name, default and description of every setting; none for a class without settings."""
    fields = getattr(getattr(cls, "Settings", None), "model_fields", {})
    return [(name, str(field.default), field.description or "") for name, field in fields.items()]


def about(cls: type[Any]) -> str:
    return " ".join((cls.__doc__ or "").split())


def first_sentence(cls: type[Any]) -> str:
    """The first sentence of what it is."""
    return about(cls).split(". ")[0].rstrip(".") + "."


def _strength(cls: type[Method]) -> str:
    return f"`{cls.strength}`" if cls.strength and cls.strength in cls.Settings.model_fields else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
