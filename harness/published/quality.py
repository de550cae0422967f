"""The quality columns of a published table, each row beside the dense row that it was measured against.

Rows with different denses stand in tables of their own: a method on one model says nothing of one on another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from results.analysis.tolerances import within
from results.tables.formatting import number, rows
from results.tables.published import dense_rows

_METRICS = {"fid": "FID", "clip_score": "CLIP score"}
_READING = """\
Copied from the paper. A row is compared with its own dense row alone. *pass*: MLPerf's tolerances, FID within 2 % of
dense's, CLIP score within 0.2 %; the paper's intervals and sample sizes are not known."""


def quality(spec: Mapping[str, Any], frame: pd.DataFrame) -> str:
    """One table for each dense row."""
    dense = dense_rows(spec, frame)
    parts = [_READING]
    for reference in dict.fromkeys(dense):
        members = [index for index, own in enumerate(dense) if own == reference and index != reference]
        if not members:
            continue
        head = ["row", "C.R."]
        for title in _METRICS.values():
            head += [title, "of dense", "within"]
        lines = [_line(frame, index, reference, spec["rows"][index]) for index in (reference, *members)]
        parts += [f"### Measured against {frame['method'][reference]}", rows(head, lines)]
    alone = [frame["method"][one] for one in dict.fromkeys(dense) if dense.count(one) == 1]
    if alone:
        parts.append(f"Models of their own, against which no row was measured: {', '.join(alone)}.")
    return "\n\n".join([*parts, *([spec["quality_notes"].strip()] if "quality_notes" in spec else [])])


def _line(frame: pd.DataFrame, index: int, reference: int, about: Mapping[str, Any]) -> list[str]:
    name = frame["method"][index] + (" (dense inferred)" if about.get("inferred") else "")
    cells = [name, f"{100 * frame['compression_ratio'][index]:g} %"]
    for column in _METRICS:
        value, dense = (frame[column][row] for row in (index, reference))
        if pd.isna(value) or pd.isna(dense):
            cells += ["", "", ""]
            continue
        passed = "" if index == reference else "pass" if within(column, value, dense) else "fail"
        cells += [number(value), f"{value / dense:.3f}", passed]
    return cells
