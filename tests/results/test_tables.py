"""The table: its columns, empty cells, fronts, files and the terminal."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pandas as pd
import pytest
from report_runs import make_run
from rich.console import Console
from support import command

from results import CaseFacts, Table
from results.outputs import write_tables
from results.tables import dictionary, terminal
from results.tables.formatting import change, interval, number, percent
from results.tables.markdown import render

_FIGURES = (
    "gmacs", "gmacs_paper", "latency_s", "latency_ratio", "peak_memory_mb", "energy_j", "kid-shapes-judge", "alignment",
)  # fmt: skip
COLUMNS = [
    "method", "settings", "ratio", "ratio_reached", "task", "model", "device", "dtype", "steps", "cases", "outcome",
    "reason", *(name + part for name in _FIGURES for part in ("", "_low", "_high", "_n")), "seed", "guidance", "key",
]  # fmt: skip


def printed(table: Table, width: int = 120) -> str:
    stream = io.StringIO()
    terminal.show(table, Console(file=stream, width=width))
    return stream.getvalue()


def test_columns_and_cells(table, sweep):
    frame = table.frame
    assert list(frame.columns) == COLUMNS
    assert len(frame) == len(table) == len(sweep)
    row = frame.iloc[2]
    assert (row["method"], row["settings"], row["ratio"]) == ("diffcr", '{"ratio":0.2}', 0.2)
    assert row["latency_ratio_low"] == sweep[2].estimates["latency_ratio"].low
    assert row["alignment"] == sweep[2].estimates["alignment"].value
    assert row["alignment_high"] == sweep[2].estimates["alignment"].high
    assert row["key"] == sweep[2].key


def test_a_failed_record_has_a_reason_and_no_numbers(record, estimate):
    estimates = {"gmacs": estimate(1.0), "kid": estimate(2.0, role="quality", better="lower")}
    lost = record("tome", 0.6, outcome="failed", reason="NaN", estimates=estimates)
    table = Table([record(estimates=estimates), lost])
    failed = table.frame.iloc[1]
    assert failed["reason"] == "NaN"
    assert failed[["gmacs", "kid", "kid_low", "latency_s"]].isna().all()
    assert table.pareto("gmacs", "kid")["method"].tolist() == ["dense"]


def test_csv_keeps_every_digit_and_empty_cells(table, tmp_path):
    with table.to_csv(tmp_path / "deep" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == COLUMNS
    for name in ("alignment", "latency_ratio_low", "gmacs", "energy_j"):
        assert [float(row[name]) for row in rows[:-1]] == table.frame[name][:-1].tolist()
        assert rows[-1][name] == ""  # the failed point
    assert rows[0]["ratio"] == rows[0]["reason"] == ""
    assert json.loads(rows[1]["settings"]) == {"ratio": 0.1}
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["results.csv"]  # no temporary file stays


def test_a_failed_write_leaves_the_old_file(table, tmp_path, monkeypatch):
    path = tmp_path / "results.csv"
    path.write_text("old")

    def refuse(*_):
        raise OSError("no")

    monkeypatch.setattr("results.files.os.replace", refuse)
    with pytest.raises(OSError, match="no"):
        table.to_csv(path)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_written_files(table, tmp_path):
    paths = write_tables(table, tmp_path)
    names = ("results.csv", "summary.md", "pareto.csv", "pareto.md")
    assert paths == [tmp_path / "tables" / name for name in names]
    summary = paths[1].read_text()
    rows = [line for line in summary.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 11 + len(table.failed()) + 2  # points that succeeded; failed ones with a head of their own
    assert rows[0].startswith("| dense |") and "58.2" in rows[0] and "CUDA out of memory \\| 3 GiB" in summary
    fronts = pd.read_csv(paths[2])
    assert len(fronts) == 6 * 11  # three costs, two metrics, eleven points that succeeded
    assert set(fronts["cost_axis"]) == {"gmacs", "latency_ratio", "peak_memory_mb"}
    text = paths[3].read_text()
    assert text.count("\n## ") == 7  # six fronts and the failed points
    for needed in ("95 % bootstrap", "n = 24", "kernel distance", "CFG halves included", "higher is better",
                   "CUDA out of memory \\| 3 GiB"):  # fmt: skip
        assert needed in text
    widths = {line.count("|") - line.count("\\|") for line in text.splitlines() if line.startswith("| ● ")}
    assert widths == {7}


def test_terminal_fits_and_shows_the_points(table):
    text = printed(table, 200)
    assert max(map(len, text.splitlines())) <= 120
    dense = next(line for line in text.splitlines() if line.strip().startswith("dense"))
    assert "58.2" in dense and "GLP" in dense
    assert "failed: tome 60 %: CUDA out of memory | 3 GiB asked for" in text
    assert printed(table, 80)  # narrow terminals fold


def test_many_metrics_are_split_over_tables_that_fit(record, estimate):
    metrics = {f"metric-number-{i}": estimate(i + 0.123456, role="quality", better="lower") for i in range(9)}
    text = printed(Table([record(estimates=metrics | {"gmacs": estimate(1.0)})]))
    assert max(map(len, text.splitlines())) <= 120
    for name in metrics:
        assert text.count(name) == 1
    assert text.count("dense") > 1


def test_settings_tell_twins_apart(record):
    text = printed(Table([record("tome", 0.2, settings={"mlp": True}), record("tome", 0.2, settings={"mlp": False})]))
    assert "mlp=True" in text and "mlp=False" in text


def test_brackets_in_names_are_no_markup(record):
    table = Table([record("[red]x[/red]", outcome="failed", reason="[/bold] shape [2, 3]")])
    text = printed(table)
    assert "[red]x[/red]" in text and "[/bold] shape [2, 3]" in text


def test_representations(table):
    assert "diffcr" in repr(table) and "alignment" in repr(table) and "nan" not in repr(table).lower()
    assert "<table" in table._repr_html_()


def test_an_empty_table_works(tmp_path):
    table = Table([])
    assert len(table) == 0 and table.frame.empty and list(table.frame.columns)[-1] == "key"
    assert repr(table) == "Table: no records"
    assert all(path.exists() for path in write_tables(table, tmp_path))
    assert printed(table) == ""


def test_only_failures_work(record, tmp_path):
    table = Table([record("tome", 0.2, outcome="failed", reason="out of memory")])
    text = write_tables(table, tmp_path)[-1].read_text()
    assert "No point has both" in text and "out of memory" in text
    assert "out of memory" in printed(table)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (float("nan"), ""), (0.0, "0"), (0.012345678, "0.01235"), (12345.6, "12,346"), (-1.5, "-1.5"),
     (float("inf"), "inf"), (2e-7, "2e-07"), (999.96, "1000")],
)  # fmt: skip
def test_number(value, text):
    assert number(value) == text


def test_interval_and_percent():
    assert interval(0.81234, 1.5) == "[0.812, 1.5]"
    assert interval(None, 1.0) == ""
    assert [percent(r) for r in (0.2, 0.125, 0.0, None, float("nan"))] == ["20 %", "12.5 %", "0 %", "", ""]


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0123, "+1.2 %"), (-0.123, "-12 %"), (1.326, "+133 %"), (-12.5, "-1,250 %"), (0.0, "+0 %"), (None, "")],
)
def test_changes(share, text):
    assert change(share) == text


def test_what_is_too_wide_leaves_the_table_and_is_named(table):
    shown = {}
    for width in (84, 80, 64):
        text = printed(table, width)
        assert max(map(len, text.splitlines())) <= width
        shown[width] = [name for name in ("memory", "latency") if name in text.split("dense")[0]]
        for record in table.records:
            for name in ("alignment", "kid-shapes-judge"):
                if name in record.estimates:  # no interval is broken, no metric lost
                    e = record.estimates[name]
                    assert interval(e.low, e.high) in text
    assert shown == {84: ["memory", "latency"], 80: ["latency"], 64: []}
    assert "Too wide" not in printed(table, 84)
    assert "Too wide for 80 columns: peak memory; every figure is in tables/results.csv." in printed(table, 80)
    assert "Too wide for 64 columns: latency ratio, peak memory;" in printed(table, 64)


def test_the_command_heeds_columns(tmp_path, monkeypatch, capsys):
    """Long names at several strengths, and the verdict on them."""
    run = make_run(tmp_path / "run", methods=2, ratios=3, cases=8, images=False, maps=False,
                   name="diffcr+fewer-steps+taylorseer")  # fmt: skip
    for columns, widest in (("80", 80), ("100", 100), ("", 120)):
        monkeypatch.setenv("COLUMNS", columns)
        monkeypatch.delenv("COLUMNS") if not columns else None
        assert command(monkeypatch, "runs", "show", str(run)) == 0
        lines = capsys.readouterr().out.split("text-to-image ·", 1)[1].splitlines()
        assert max(map(len, lines[1:])) <= widest
        assert any("verdict: truth[judge]" in line for line in lines)


def test_peak_memory_is_shown_where_it_tells_points_apart(record, estimate):
    def of(memory: float) -> dict:
        return {"alignment": estimate(0.9, role="quality", better="higher"), "gmacs": estimate(1.0, unit="GMACs"),
                "peak_memory_mb": estimate(memory, unit="MiB")}  # fmt: skip

    for other, there in ((100.9, False), (101.1, True)):
        table = Table([record(estimates=of(100.0)), record("tome", 0.2, estimates=of(other))])
        assert ("memory" in printed(table)) == there == ("peak_memory_mb" in table.costs)
        assert table.frame["peak_memory_mb"].tolist() == [100.0, other]  # results.csv has it in any case


def test_a_count_has_no_sample_size(record, estimate):
    """GMACs are counted in every step of one image, which are no sample."""
    quality = estimate(0.9, role="quality", better="higher", low=0.8, high=0.95)
    timed = estimate(1.0, unit="s", low=0.9, high=1.1, n=12)
    table = Table([record(estimates={"alignment": quality, "gmacs": estimate(1.0, n=20), "latency_s": timed})])
    text = render(table)
    assert "| front | point | cost |" in text and "| ● | dense | 1 |" in text
    assert "n = 20" not in text and table.exact("gmacs", 1) and not table.exact("latency_s", 1)


def test_every_column_has_its_sample_size_its_source_and_a_meaning(record, estimate):
    found = record(
        estimates={"gmacs": estimate(1.0, n=20, role="cost"),
                   "seam": estimate(0.1, role="quality", low=0.0, high=0.2, n=7)},
        cases=(CaseFacts(prompt="a", seed=41), CaseFacts(prompt="b", seed=42)), n_cases=2,
        fingerprint={"sampler": "DPM 20 steps, guidance 4.5"}, environment={"torch": "2.14.1", "threads": "2"},
        task_settings={"mask_area": 0.25},
    )  # fmt: skip
    table = Table([found, record("tome", 0.2, outcome="failed")])
    row, lost = table.frame.to_dict("records")
    assert (row["seam"], row["seam_low"], row["seam_high"], row["seam_n"], row["gmacs_n"]) == (0.1, 0.0, 0.2, 7, 1)
    assert (row["seed"], row["guidance"], row["env_torch"], row["env_threads"]) == (41, 4.5, "2.14.1", "2")
    assert np.isnan(lost["seam_n"]) and np.isnan(lost["guidance"]) and lost["env_torch"] == ""
    described = dictionary.point_columns(table) + dictionary.figures(table.records)
    named = {name for name in table.frame.columns if f"`{name}`" in described}
    bounds = {name + part for name in table.figures for part in ("_low", "_high", "_n")}
    assert set(table.frame.columns) - named - bounds <= {"gmacs_paper", "latency_s", "latency_ratio", "peak_memory_mb"}
    assert "setting of the task" in described and "version of torch" in described
