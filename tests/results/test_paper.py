"""Tables for papers: what is marked, what is escaped, and every digit."""

import io
from typing import Any

import pandas as pd
import pytest

from results import Estimate
from results.tables import paper


def figure(value: float, low: float | None, high: float | None, better: Any = "lower") -> Estimate:
    return Estimate(value=value, low=low, high=high, n=24, unit="", convention="", role="quality", better=better)


@pytest.mark.parametrize(
    ("figures", "marks"),
    [
        ([(1.0, 0.9, 1.1), (2.0, 1.9, 2.1), (3.0, 2.9, 3.1)], ["best", "", ""]),
        ([(1.0, 0.5, 1.95), (2.0, 1.9, 2.1), (3.0, 2.9, 3.1)], ["tied", "tied", ""]),
        ([(1.0, None, None), (2.0, 1.9, 2.1)], ["", ""]),
        ([(1.0, 0.9, 1.1)], [""]),
    ],
)
def test_marks_where_intervals_separate(figures: list[Any], marks: list[str], record: Any) -> None:
    group = [record(f"m{i}", 0.2, estimates={"loss": figure(*one)}) for i, one in enumerate(figures)]
    group.append(record("m0", 0.4, estimates={"loss": figure(0.1, 0.0, 0.2)}))  # at another strength
    found = {
        cell.point: cell.mark for cell in paper.cells([record("dense", estimates={"loss": figure(0, 0, 0)}), *group])
    }
    assert [found[f"m{i} 20 %"] for i in range(len(figures))] == marks
    assert found["dense"] == "" and found["m0 40 %"] == ""


@pytest.mark.parametrize(("n", "marks"), [(999, ["", ""]), (1000, ["best", ""])])
@pytest.mark.parametrize(
    ("name", "kept"), [("fid[judge]", ""), ("kid_square[judge]", ""), ("cmmd[clip]", ""), ("own", "kernel judge")]
)
def test_sets_of_few_images_win_nothing(n: int, marks: list[str], name: str, kept: str, record: Any) -> None:
    figures = [figure(one, one - 0.1, one + 0.1).model_copy(update={"n": n, "set_distance": kept}) for one in (1, 2)]
    group = [record(f"m{i}", 0.2, estimates={name: one}) for i, one in enumerate(figures)]
    assert [cell.mark for cell in paper.cells(group)] == marks


def test_higher_is_better(record: Any) -> None:
    group = [record(f"m{i}", 0.2, estimates={"gain": figure(i, i - 0.1, i + 0.1, "higher")}) for i in (1, 2)]
    assert {cell.point: cell.mark for cell in paper.cells(group)} == {"m1 20 %": "", "m2 20 %": "best"}


def test_files(record: Any, sweep: Any, tmp_path: Any) -> None:
    odd = record("a_b&c", 0.2, estimates={"alignment": figure(0.1 + 0.2, 0.2, 0.4, "higher")})
    tex, md, table = paper.write_paper([*sweep, odd], tmp_path)
    text = tex.read_text()
    assert r"a\_b\&c 20 \% &" in text and text.count(r"\toprule") == 1 and r"\midrule" in text
    assert text.count("{") == text.count("}")
    assert "| a_b&amp;c 20 % |" in md.read_text() and "†" in md.read_text()
    frame = pd.read_csv(io.StringIO(table.read_text()))
    assert frame.loc[frame["point"] == "a_b&c 20 %", "value"].item() == 0.1 + 0.2
    assert set(frame["mark"].dropna()) <= {"best", "tied"}
