"""What the columns of results.csv mean: docs/results_csv.md is drawn from here and from kept records."""

from __future__ import annotations

from collections.abc import Iterable

from results.analysis.modes import split
from results.record import Estimate, Record
from results.tables.formatting import code, plain, rows
from results.tables.table import COSTS, Table

POINT_COLUMNS: dict[str, tuple[str, str]] = {
    "method": ("name of the method, `a+b` for a composition", "never"),
    "settings": ("its settings as JSON, keys sorted", "never; `{}` for dense"),
    "ratio": ("compression ratio asked for, 0 to 1", "the method has none (dense, step caches)"),
    "ratio_reached": ("compression ratio that really runs, 0 to 1", "the method has none"),
    "task": ("text-to-image, class-conditional or inpainting", "never"),
    "model": ("model as it was named", "never"),
    "device": ("cpu, cuda or cuda:N; the hardware is in `env_device`", "never"),
    "dtype": ("precision of the weights", "never"),
    "steps": ("sampler steps", "never"),
    "cases": ("images", "never"),
    "outcome": ("ok; incomplete: a metric or a mode of execution failed; failed: no figure counts", "never"),
    "reason": ("why the outcome is not ok", "it is ok"),
    "seed": ("seed of the first image's noise; those of all images are in the record", "records of schema 1"),
    "guidance": ("scale of classifier-free guidance (CFG)", "the sampler of the record names none"),
    "key": ("sha256 of everything that can change a figure: the record's name in the store", "never"),
}
"""Each column that is no figure: what it says, and when it is empty."""

ENVIRONMENT_COLUMNS: dict[str, str] = {
    "env_commit": "commit of this program; `+`: files differed from it",
    "env_threads": "threads of PyTorch",
    "env_device": "hardware that was measured on",
    "env_cpu": "model of the host's processor",
    "env_platform": "operating system",
    "env_python": "version of Python",
    "env_attention": "backends that fused attention may choose from",
}
"""What is recorded of the machine and the program; others are versions of libraries."""

_COUNTED = "nothing was counted"
_TIMED = "nothing was timed"
_NO_MODE = "the mode was not asked for, or the method cannot run in it: `reason` says why"
_ABSENT: dict[str, str] = {
    "gmacs": _COUNTED,
    "gmacs_paper": "the counter of papers does not know an operation",
    "latency_s": _TIMED,
    "latency_ratio": _TIMED,
    "peak_memory_mb": "memory was not measured",
    "latency_limit_ratio": "the method leaves out no tokens, is one of several, or stays on a copy of its own",
    "latency_overhead": "the method leaves out no tokens, is one of several, or stays on a copy of its own",
    "throughput_images_s": "fewer than three full batches behind the first",
}


def point_columns(table: Table) -> str:
    """A Markdown table of the columns of `table.frame` that are no figures, in their order."""
    figures = {name + part for name in table.figures for part in ("", "_low", "_high", "_n")}
    lines = []
    for name in table.frame.columns:
        if name in figures:
            continue
        says, empty = POINT_COLUMNS.get(name) or _further(name, table.records)
        lines.append([code(name), says, empty])
    return rows(["column", "what it says", "empty where"], lines)


def _further(name: str, records: Iterable[Record]) -> tuple[str, str]:
    if any(name in record.task_settings for record in records):
        return "setting of the task", "another task"
    library = f"version of {name.removeprefix('env_')}; `absent`: not installed"
    return ENVIRONMENT_COLUMNS.get(name, library), "not recorded then"


def figures(records: Iterable[Record]) -> str:
    """A Markdown table of every figure in the records: unit, direction, sample size, interval, convention, absence."""
    found: dict[str, Estimate] = {}
    for record in records:
        for name, estimate in record.estimates.items() if record.usable else ():
            found.setdefault(name, estimate)
    order = [*(name for name in COSTS if name in found), *(name for name in found if name not in COSTS)]
    head = ["column", "unit", "better", "n", "interval", "convention", "empty where"]
    return rows(head, (_line(name, found[name]) for name in order))


def _line(name: str, e: Estimate) -> list[str]:
    empty = (
        _ABSENT.get(name)
        or (_NO_MODE if split(name)[0] != name else "")
        or ("the metric did not run or does not apply" if e.role == "quality" else _TIMED)
    )
    bounds = "none: exact" if e.role == "cost" and e.low is None else "none" if e.low is None else "95 %"
    return [code(name), plain(e.unit), e.better or "", str(e.sample_size), bounds, plain(e.convention), empty]
