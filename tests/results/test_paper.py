"""Tables for papers: what is marked, what is escaped, and every digit."""

import io
import re
from typing import Any

import pandas as pd
import pytest

from results import Estimate
from results.analysis.point_names import point_names
from results.tables import paper

HOSTILE = ["a%b", "a_b", "a & b", "#1", "~/x", "a^2", "a\\input{x}", "}{", "$x$", "<a|b>", "[2pt]", "*", "a\n\n b\t"]
_WORDS = {"textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<", "textgreater": ">",
          "textbar": "|"}  # fmt: skip
_SIGN = re.compile(
    r"\\(?P<word>[a-z]+)\{\}|\\(?P<escaped>[&%$#_{}])|\{(?P<shielded>[[*])\}|(?P<plain>[^\\&%$#_{}~^<>|[*\n])"
)


def typeset(tex: str) -> str:
    """What LaTeX prints for escaped text. Fails at a sign that LaTeX would take for a command of its own."""
    shown, at = "", 0
    while at < len(tex):
        found = _SIGN.match(tex, at)
        assert found, f"{tex[at:]!r} is no text to LaTeX"
        shown += _WORDS[found["word"]] if found["word"] else found["escaped"] or found["shielded"] or found["plain"]
        at = found.end()
    return shown


def stacked(cell: str) -> str:
    """The same for a column's title, whose parts may stand below each other."""
    parts = cell.removeprefix(r"\shortstack[r]{")
    return " ".join(typeset(part) for part in (parts[:-1] if parts != cell else cell).split(r" \\"))


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
    assert r"a\_b\&c 20 \% &" in text and text.count(r"\toprule") == 2 and r"\midrule" in text
    assert text.count("{") == text.count("}")
    assert "| a_b&amp;c 20 % |" in md.read_text() and "†" in md.read_text()
    frame = pd.read_csv(io.StringIO(table.read_text()))
    assert frame.loc[frame["point"] == "a_b&c 20 %", "value"].item() == 0.1 + 0.2
    assert set(frame["mark"].dropna()) <= {"best", "tied"}


def test_latex_is_no_wider_than_a_page(record: Any, tmp_path: Any) -> None:
    names = [f"loss_{i}[some-judge]" for i in range(9)]
    group = [record("m", 0.2, estimates={name: figure(1.0, 0.9, 1.1) for name in names})]
    text = paper.write_paper(group, tmp_path)[0].read_text()
    heads = [line.removesuffix(r" \\").split(" & ") for line in text.splitlines() if r"\shortstack" in line]
    assert [len(head) - 1 for head in heads] == [3, 3, 3]
    assert [stacked(cell) for head in heads for cell in head[1:]] == [
        f"loss_{i} [some-judge] (lower)" for i in range(9)
    ]
    assert "Part 3 of 3." in text and text.count(r"\end{table}") == 3


@pytest.mark.parametrize("text", HOSTILE)
def test_latex_prints_what_data_say(record: Any, text: str, tmp_path: Any) -> None:
    """In the name of a method, a setting, its value, a metric and a model; at the start of a row, too."""
    group = [
        record(text, 0.2, settings={"ratio": 0.2, text: value}, model=text, estimates={text: figure(1.0, 0.9, 1.1)})
        for value in (text, "other")
    ]
    lines = paper.write_paper(group, tmp_path)[0].read_text().splitlines()
    about = next(line for line in lines if line.startswith(r"\caption{")).removeprefix(r"\caption{")
    shown = " ".join(text.split())
    assert shown in typeset(about[: about.index(". Bold")])
    head, *rows = (line.removesuffix(r" \\").split(" & ") for line in lines if line.endswith(r" \\"))
    assert [stacked(cell) for cell in head] == ["", f"{shown} (lower)"]
    names = [" ".join(name.split()) for name in point_names(group).values()]
    assert [typeset(row[0]) for row in rows] == names and {len(row) for row in rows} == {2}


def test_a_point_that_meets_two_budgets_has_a_line_in_each(record: Any, tmp_path: Any) -> None:
    records = [record("dense", None, estimates={"truth": figure(1, 0.9, 1.1)})]
    records += [record(name, 0.2, estimates={"truth": figure(value, value - 0.1, value + 0.1)}, settings={"ratio": 0.2})
                for name, value in (("a", 2.0), ("b", 3.0))]  # fmt: skip
    matches = [{"method": name, "chosen": {"ratio": 0.2}, "axis": "gmacs", "budget": budget, "strength": 0.2}
               for budget, names in ((0.8, "ab"), (0.7, "a")) for name in names]  # fmt: skip
    paper.write_paper(records, tmp_path, matches)
    text = (tmp_path / "tables.tex").read_text()
    assert text.count("a 20") == 2 and text.count("\\midrule") == 3


def test_a_point_of_two_versions_of_the_code_is_the_newest_alone(record: Any, tmp_path: Any) -> None:
    old = record("a", 0.2, key="old-old-old", estimates={"truth": figure(9, 8, 10)}, started="2026-01-01")
    new = record("a", 0.2, key="new-new-new", estimates={"truth": figure(1, 0.5, 1.5)}, started="2026-02-01")
    paper.write_paper([record("dense"), old, new], tmp_path)
    assert "& 9" not in (tmp_path / "tables.tex").read_text()


def test_every_workload_has_its_table(record: Any, tmp_path: Any) -> None:
    estimates = {"truth": figure(1, 0.5, 1.5)}
    records = [record(method, ratio, key=f"key-of-{steps}-{method}", steps=steps, estimates=estimates,
                      fingerprint={"sampler": str(steps)})
               for steps in (8, 20) for method, ratio in (("dense", None), ("a", 0.2))]  # fmt: skip
    paper.write_paper(records, tmp_path)
    assert (tmp_path / "tables.tex").read_text().count("begin{tabular}") == 2


def test_points_of_other_strengths_are_in_no_contest(record: Any) -> None:
    """One at nearly dense's cost would be the best of them."""
    figures = {"fbcache": (1.0, 0.9, 1.1), "fewer-steps": (2.0, 1.9, 2.1)}
    group = [record(name, estimates={"loss": figure(*one)}) for name, one in figures.items()]
    found = paper.cells([record("dense", estimates={"loss": figure(0, 0, 0)}), *group])
    assert {cell.mark for cell in found} == {""}


def test_training_seeds_are_one_point_with_an_interval_over_them(record: Any) -> None:
    """One lucky fit of three wins nothing, and three alike do not tie each other out."""
    losses = {"a": (0.9, 1.5, 1.2), "b": (2.0, 2.01, 2.02), "c": (0.95,)}
    group = [
        record(method, 0.2, settings={"ratio": 0.2, "seed": seed}, key=f"{method} {seed:07}",
               estimates={"loss": figure(loss, loss - 0.03, loss + 0.04), "gmacs": figure(10 * loss, None, None)})
        for method, some in losses.items() for seed, loss in enumerate(some)
    ]  # fmt: skip
    found = {(cell.point, cell.column): cell for cell in paper.cells(group)}
    assert {point for point, _ in found} == {"a 20 %, 3 seeds", "b 20 %, 3 seeds", "c 20 %"}
    a = found["a 20 %, 3 seeds", "loss"]
    half = 4.302653 * 0.3 / 3**0.5  # Student's of 2 degrees of freedom
    assert a.estimate.value == pytest.approx(1.2)
    assert a.estimate.low == pytest.approx(1.2 - (half**2 + 0.03**2) ** 0.5)
    assert a.estimate.high == pytest.approx(1.2 + (half**2 + 0.04**2) ** 0.5)
    assert found["b 20 %, 3 seeds", "gmacs"].estimate.value == pytest.approx(20.1)
    marks = {point: cell.mark for (point, column), cell in found.items() if column == "loss"}
    assert marks == {"a 20 %, 3 seeds": "tied", "b 20 %, 3 seeds": "", "c 20 %": "tied"}
