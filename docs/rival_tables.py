"""Tables of docs/rivals_shapes.md and docs/table1_emoji.md: methods at equal cost, how their settings were chosen, and
DiffCR with caches."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import experiments
import pandas as pd
from experiments import gmacs_of, values_of

from results import Run, open_run
from results.analysis.budgets import evaluated
from results.analysis.compare import latency_between
from results.analysis.differences import difference
from results.analysis.multiplicity import holm
from results.analysis.points import led_to
from results.record import Record
from results.tables.formatting import interval, number, percent, rows

TRUTH, EMOJI_TRUTH = "truth[shapes-judge]", "truth[efficientnet-lite0]"


def rivals(
    axis: str, folder: str = "rivals_shapes", truth: str = TRUTH, *, budget: float = 0.8, timed: bool = True
) -> str:
    """What the search for a budget of one axis found, and what became of it on the evaluation's captions. timed: with
    the latency."""
    run = open_run(experiments.REFERENCE / folder)
    (dense,) = (record for record in run.records if record.method == "dense")
    found: list[tuple[Mapping[str, Any], Record]] = []
    left_out = []
    for match in (one for one in run.matches if (one["axis"], one["budget"]) == (axis, budget)):
        led = next((record for record in run.records if match["strength"] is not None and led_to(match, record)), None)
        if led is not None:
            found.append((match, led))
        else:
            empty = [""] * (6 + timed)
            cost = number(match["cost"], 3)
            left_out.append([_named(match["method"], match["settings"]), "left out", cost, *empty])
    to_dense = _less([(record, dense) for _match, record in found], truth, run)
    diffcr = next((record for _match, record in found if record.method == "diffcr"), None)  # perhaps left out
    rest = [record for _match, record in found if record is not diffcr]
    from_diffcr = [] if diffcr is None else _less([(diffcr, record) for record in rest], truth, run)
    less_it = {record.key: _starred(*less) for record, less in zip(rest, from_diffcr, strict=bool(diffcr))}
    lines = []
    for (match, record), less_dense in zip(found, to_dense, strict=True):
        latency, psnr = record.estimates["latency_ratio"], record.estimates.get("psnr_to_dense")
        seconds = [f"{number(latency.value, 3)} {interval(latency.low, latency.high)}"] * timed
        note = "" if match["met"] else " *closest*"
        here = evaluated(match, record, run.records)
        note += " *missed*" if match["met"] and here and not here.held else ""
        cells = [
            _named(match["method"], match["settings"]), f"{match['setting']} {match['strength']:.4g}",
            f"{match['cost']:.3f}{note}",
            f"{gmacs_of([record]) / gmacs_of([dense]):.3f}",
            *seconds, *values_of([record], [truth]), *less_dense, less_it.get(record.key, ""),
            "" if psnr is None else number(psnr.value, 3),
        ]  # fmt: skip
        lines.append((record.estimates[truth].value, cells))
    head = [
        "method", "setting", f"{axis}, tuned", "GMACs / dense", *["latency / dense"] * timed, "truth (lower)",
        "less dense's", "p", "DiffCR less it", "PSNR to dense, dB",
    ]  # fmt: skip
    return rows(head, [cells for _truth, cells in sorted(lines, key=lambda line: line[0])] + left_out)


def tuned() -> str:
    """Other settings than the strength at one budget, on calibration captions, the nearest to the truth first."""
    frame = pd.read_csv(experiments.REFERENCE / "tune_rivals_shapes" / "matched.csv").fillna({"settings": ""})
    lines = []
    for row in frame[frame["strength"].notna()].sort_values(["method", TRUTH]).to_dict("records"):
        figures = (
            f"{number(row[name], 3)} {interval(row[f'{name}_low'], row[f'{name}_high'])}"
            for name in (TRUTH, "alignment", "psnr_to_dense")
        )
        lines.append([_named(row["method"], json.loads(row["settings"] or "{}")), f"{row['strength']:.3g}",
                      f"{row['cost']:.3f}", *figures])  # fmt: skip
    metrics = ["truth (lower)", "alignment (higher)", "PSNR to dense, dB"]
    return rows(["method", "strength", "GMACs / dense", *metrics], lines)


def caches() -> str:
    """DiffCR with step caches: what each saves beyond the other."""
    run = open_run(experiments.REFERENCE / "caching_shapes")
    by_method = {record.method: record for record in run.records}
    dense, lines = by_method["dense"], []
    for name, record in by_method.items():
        latency = record.estimates["latency_ratio"]
        less = difference(record, dense, TRUTH, run.features, run.references)
        beyond = [_saved(record, by_method[part]) if part != name else "" for part in name.split("+")]
        lines.append([
            f"`{name}` {percent(record.ratio)}".strip(), f"{gmacs_of([record]) / gmacs_of([dense]):.3f}",
            f"{number(latency.value, 3)} {interval(latency.low, latency.high)}",
            *(beyond if len(beyond) > 1 else ["", ""]), *values_of([record], [TRUTH]),
            "" if record is dense else f"{less.value:+.3f} {interval(less.low, less.high)}",
            *values_of([record], ["psnr_to_dense"]),
        ])  # fmt: skip
    head = [
        "method", "GMACs / dense", "latency / dense", "saved beyond DiffCR", "beyond the cache", "truth (lower)",
        "less dense's", "PSNR to dense, dB",
    ]  # fmt: skip
    return rows(head, lines)


def few_steps() -> str:
    """Fewer steps, DiffCR (with two fits), and both, against dense at 8 steps, and against the same model at 4."""
    run = open_run(experiments.REFERENCE / "few_steps_emoji")
    (dense,) = (record for record in run.records if record.method == "dense")
    (four,) = (one for one in run.records if one.method == "fewer-steps" and one.settings["spared"] == 0.5)
    longer = [one for one in open_run(experiments.REFERENCE / "few_steps_long_emoji").records if "diffcr" in one.method]
    lines = []
    for record in sorted([*run.records, *longer], key=lambda record: -gmacs_of([record])):
        fit = ", 2,400 steps on own latents" if record in longer else ""
        spared = record.settings.get("spared", record.settings.get("fewer-steps.spared", 0))
        words = [
            ["", ""] if record is other else _less([(record, other)], EMOJI_TRUTH, run)[0] for other in (dense, four)
        ]
        lines.append([
            f"{record.method.partition('+')[0]} {percent(record.ratio)}".strip() + fit, str(round(8 * (1 - spared))),
            f"{gmacs_of([record]) / gmacs_of([dense]):.3f}", *values_of([record], [EMOJI_TRUTH]),
            *(word for each in words for word in each),
        ])  # fmt: skip
    head = [
        "method", "steps", "GMACs / dense", "truth (lower)", "less dense's at 8 steps", "p", "less dense's at 4 steps",
        "p",
    ]  # fmt: skip
    return rows(head, lines)


def _saved(record: Record, part: Record) -> str:
    """1 less the ratio of two latencies over dense, with an interval from the blocks of both."""
    ratio = latency_between(record, part)
    assert ratio.ratio and ratio.low and ratio.high
    return f"{100 * (1 - ratio.ratio):.0f} % {interval(100 * (1 - ratio.high), 100 * (1 - ratio.low))}"


def _named(method: str, settings: Mapping[str, Any]) -> str:
    given = [f"{name} {value}" for name, value in settings.items() if value is not True]
    return ", ".join([f"`{method}`", *given, *(name for name, value in settings.items() if value is True)])


def _less(pairs: Sequence[tuple[Record, Record]], truth: str, run: Run) -> list[list[str]]:
    """One less another with its interval, and p within these pairs (Holm)."""
    each = [difference(one, other, truth, run.features, run.references) for one, other in pairs]
    adjusted = holm([found.p for found in each])
    return [
        [f"{found.value:+.3f} {interval(found.low, found.high)}", number(p, 2)]
        for found, p in zip(each, adjusted, strict=True)
    ]


def _starred(found: str, p: str) -> str:
    """A star where the two cannot be told apart."""
    return found + "*" * (float(p) > 0.05)


BLOCKS: dict[str, Callable[[], str]] = {
    "rivals-gmacs": partial(rivals, "gmacs"),
    "rivals-latency": partial(rivals, "latency"),
    "rivals-emoji": partial(rivals, "gmacs", "table1_emoji", EMOJI_TRUTH, timed=False),
    "rivals-emoji-latency-80": partial(rivals, "latency", "latency_emoji", EMOJI_TRUTH, budget=0.8),
    "rivals-emoji-latency-60": partial(rivals, "latency", "latency60_emoji", EMOJI_TRUTH, budget=0.6),
    "rivals-emoji-six": partial(rivals, "gmacs", "six_steps_emoji", EMOJI_TRUTH, timed=False),
    "few-steps-emoji": few_steps,
    "rivals-tuned": tuned,
    "rivals-caches": caches,
}
