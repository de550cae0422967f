"""What each axis of a method is worth: CSV, Markdown and a picture, from records alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from results.analysis.attribution import Pair
from results.analysis.comparisons import paired_test, word_of
from results.analysis.differences import NotComparable, seed_difference
from results.analysis.multiplicity import holm
from results.analysis.paired import Difference
from results.analysis.points import Point
from results.analysis.sets import RANKING_NEEDS, is_set_distance
from results.files import write_atomic
from results.plots.attribution import ALL, bars, counted, method_names
from results.record import Estimate
from results.run import Run
from results.tables.formatting import DIRECTIONS, compact_json, interval, number, percent, setup
from results.tables.markdown import rows

COLUMNS = (
    "method", "settings", "task", "ratio", "seed", "model", "axis", "control", "form", "metric", "difference", "low",
    "high", "p", "n", "detectable", "better", "unit", "gmacs_method", "gmacs_control", "key_method", "key_control",
)  # fmt: skip


def frame(run: Run, pairs: Sequence[Pair]) -> pd.DataFrame:
    """One row per pair and quality metric that both have: difference = method - control, paired by case; and, where
    pairs differ in their training seed alone, one over the seeds (`seed` is "all"), whose interval and p rest on
    seeds and images both."""
    lines = []
    claims: dict[tuple[object, ...], list[Pair]] = {}
    for pair in pairs:
        claims.setdefault(pair.claim, []).append(pair)
    for some in claims.values():
        for metric, estimate in run.qualities.items():
            for pair in some:
                try:
                    found = _difference(run, pair, metric)
                except NotComparable:
                    continue  # distances to dense do not exist for dense itself
                lines.append(_line([pair], str(pair.seed), metric, estimate, found._asdict()))
            if len(some) > 1:
                try:
                    over = seed_difference([p.method for p in some], [p.control_record for p in some], metric)
                except NotComparable:
                    continue
                cases = {"n": some[0].method.n_cases}
                lines.append(_line(some, ALL, metric, estimate, over._asdict() | cases))
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _difference(run: Run, pair: Pair, metric: str) -> Difference:
    """By image as the verdict has it, p the larger one of sign flips and of a t-test that allows for skewed
    differences; between sets, on resamples of both. Raises NotComparable."""
    if run.qualities[metric].set_distance:
        return run.compare(pair.method, pair.control_record, metric)
    method, control = (Point(one.method, (one,)) for one in (pair.method, pair.control_record))
    return paired_test(method, control, metric).found


def _line(
    pairs: Sequence[Pair], seed: str, metric: str, estimate: Estimate, found: Mapping[str, Any]
) -> dict[str, Any]:
    first = pairs[0]
    both = [[pair.method for pair in pairs], [pair.control_record for pair in pairs]]
    gmacs = [float(np.mean([record.estimates["gmacs"].value for record in some])) for some in both]
    keys = [" ".join(record.key for record in some) for some in both]
    return {
        "method": first.method.method, "settings": str(first.method.settings),
        "task": compact_json(first.method.task_settings), "ratio": first.method.ratio, "seed": seed,
        "model": first.method.model, "axis": first.axis, "control": first.control, "form": first.form,
        "metric": metric, "difference": found["value"], "low": found["low"], "high": found["high"], "p": found["p"],
        "n": found["n"], "detectable": found.get("detectable"), "better": estimate.better, "unit": estimate.unit,
        "gmacs_method": gmacs[0], "gmacs_control": gmacs[1], "key_method": keys[0], "key_control": keys[1],
    }  # fmt: skip


def write(run: Run, table: pd.DataFrame, folder: Path) -> list[Path]:
    """tables/attribution.csv and attribution.md, and plots/attribution.png where there is something to draw."""
    written = [
        write_atomic(folder / "tables" / "attribution.csv", table.to_csv(index=False, lineterminator="\n")),
        write_atomic(folder / "tables" / "attribution.md", document(run, table)),
    ]
    if len(table):
        written.append(bars(table, headline(table), folder / "plots" / "attribution.png"))
    return written


def headline(table: pd.DataFrame) -> str:
    """The metric that the picture shows: the distance to the true picture where there is one, else in features to
    dense, else the first; a distance between sets only where there is nothing else."""
    names = sorted(dict.fromkeys(table["metric"]), key=is_set_distance)
    ranked = [name for start in ("truth[", "distance_to_dense[") for name in names if name.startswith(start)]
    return (ranked or names)[0]


def document(run: Run, table: pd.DataFrame) -> str:
    """A section per metric, the headline metric first, its p-values corrected for the number of controls (Holm)."""
    parts = [
        "# What each axis is worth",
        f"{setup(run.records[0])}. difference = method - control, paired by image; [low, high]: 95 % bootstrap "
        "interval; p: the larger one of a sign-flip permutation test and of a t-test that allows for skewed "
        "differences. *swapped*: the method's own weights under the control; *refitted*: a fit "
        "as long, with the axis destroyed from its start. The headline metric's p-values are corrected for the number "
        "of its rows (Holm), of those over all seeds where there are several, and so is its verdict on the method: "
        "*better* than the control says that the axis is worth something; all other sections are exploratory. Over "
        "several training seeds the interval and p rest on seeds and images both: Student's half widths over either, "
        "added in squares.",
    ]
    first = headline(table) if len(table) else ""
    for metric in sorted(dict.fromkeys(table["metric"]), key=lambda name: name != first):
        some = table[table["metric"] == metric]
        own = counted(some)
        family = [None if pd.isna(p) or not one else float(p) for p, one in zip(some["p"], own, strict=True)]
        corrected = holm(family) if metric == first else None
        head = ["method", "ratio", "seed", "axis", "control", "form", "difference", "p", "GMACs / control"]
        head += ["p, Holm", "verdict"] if corrected is not None else []
        lines, methods = [], method_names(some)
        for index, row in enumerate(some.to_dict("records")):
            cells = [
                methods[index], percent(row["ratio"]), row["seed"], row["axis"], row["control"], row["form"],
                f"{row['difference']:+.4g} {interval(row['low'], row['high'])}", number(row["p"], 2),
                f"{row['gmacs_method'] / row['gmacs_control']:.3f}",
            ]  # fmt: skip
            if corrected is not None:
                p = corrected[index]
                cells += ["" if p is None else number(p, 2), _verdict(row, p) if own.iloc[index] else ""]
            lines.append(cells)
        better = some["better"].iloc[0]
        about = f"{some['unit'].iloc[0]}; {DIRECTIONS[better]}; n = {some['n'].iloc[0]}"
        parts += [f"## {metric}", about, rows(head, lines)]
    return "\n\n".join(parts) + "\n"


def _verdict(row: Mapping[Any, Any], p: float | None) -> str:
    """On the method against its control: "better" says that the axis is worth something. Sets of too few images earn no
    word."""
    if is_set_distance(row["metric"]) and row["n"] < RANKING_NEEDS:
        return f"not ranked below {RANKING_NEEDS:,} images"
    word = word_of(row["difference"], p, None, row["better"])
    if word != "not distinguishable":
        return word
    return f"{word} with {row['n']} images (detectable: {number(row['detectable'], 2) or 'unknown'})"
