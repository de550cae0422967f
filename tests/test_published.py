"""Published quality stands beside the dense row that it was measured against, and beside no other."""

import pandas as pd
import pytest

from harness.published.costs import names, published, spec_of
from harness.published.quality import dense_rows, quality
from results.analysis.tolerances import within


@pytest.mark.parametrize("name", names())
def test_every_row_names_its_dense(name: str) -> None:
    spec = spec_of(name)
    frame = published(spec)
    found = dense_rows(spec, frame)
    assert len(found) == len(frame) and all(found[row] == row for row in set(found))  # a dense row is its own
    assert (frame["compression_ratio"][list(set(found))] == 0).all()


def test_rows_of_different_denses_stand_apart() -> None:
    spec = {"rows": [{"dense": "A"}, {"dense": "B"}, {"dense": "A"}, {"dense": "B", "inferred": True}, {"dense": "C"}]}
    frame = pd.DataFrame(
        {"method": ["A", "B", "x", "y", "C"], "compression_ratio": [0, 0, 0.2, 0.2, 0], "fid": [10, 100, 10.1, 103, 5],
         "clip_score": [0.3, 0.2, 0.299, None, 0.1]}
    )  # fmt: skip
    text = quality(spec, frame)
    first, second = text.split("### Measured against ")[1:]
    assert first.startswith("A\n") and "| x | 20 % | 10.1 | 1.010 | pass | 0.299 | 0.997 | fail |" in first
    assert second.startswith("B\n") and "| y (dense inferred) | 20 % | 103 | 1.030 | fail |  |  |  |" in second
    assert "| y" not in first and "against which no row was measured: C." in second


@pytest.mark.parametrize(
    ("metric", "value", "dense", "n", "passed"),
    [
        ("fid[inception]", 10.2, 10, 5000, True), ("fid[inception]", 10.21, 10, 5000, False),
        ("fid[inception]", 5, 10, 5000, True), ("fid[inception]", 10, 10, 999, None), ("fid", 10.2, 10, None, True),
        ("clip_score[vit]", 0.2995, 0.3, 64, True), ("clip_score[vit]", 0.2993, 0.3, 64, False),
        ("fid_square[x]", 10, 10, 5000, None), ("alignment", 1, 1, 64, None),
    ],
)  # fmt: skip
def test_tolerances(metric: str, value: float, dense: float, n: int | None, passed: bool | None) -> None:
    assert within(metric, value, dense, n) is passed
