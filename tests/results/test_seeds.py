"""Training seeds taken together."""

import pandas as pd
import pytest

from results import Table
from results.analysis.seeds import pooled, several
from results.outputs import write_tables
from results.tables.markdown import summary


@pytest.fixture
def two(record, estimate):
    """Two seeds of one method, dense beside them."""

    def made(method, seed, value, spread=0.0, gmacs=0.6):
        replicates = (value - spread, value + spread) * 100
        alignment = estimate(value, replicates=replicates, role="quality", better="higher")
        settings = {} if seed is None else {"ratio": 0.2, "seed": seed}
        ratio = None if seed is None else 0.2
        estimates = {"alignment": alignment, "gmacs": estimate(gmacs, role="cost", better="lower")}
        return record(method, ratio, settings=settings, estimates=estimates)

    return [made("dense", None, 0.95, 0.01, 0.8), made("diffcr", 0, 0.8), made("diffcr", 1, 0.9, gmacs=0.62)]


def test_the_interval_spans_the_seeds(two):
    assert several(two)
    frame = pooled(two).set_index("method")
    row = frame.loc["diffcr"]
    assert row["seeds"] == 2 and row["alignment"] == pytest.approx(0.85) and row["gmacs"] == pytest.approx(0.61)
    assert row["alignment_low"] == pytest.approx(0.8) and row["alignment_high"] == pytest.approx(0.9)
    assert row["settings"] == '{"ratio":0.2}' or "seed" not in row["settings"]
    dense = frame.loc["dense"]
    assert dense["seeds"] == 1
    assert dense["alignment_low"] == pytest.approx(0.94) and dense["alignment_high"] == pytest.approx(0.96)
    assert pd.isna(dense["gmacs_low"])


def test_written_only_where_there_are_several(two, tmp_path):
    write_tables(Table(two), tmp_path / "both")
    assert (tmp_path / "both" / "tables" / "seeds.csv").is_file()
    write_tables(Table(two[:2]), tmp_path / "one")
    assert not (tmp_path / "one" / "tables" / "seeds.csv").exists()


def test_the_summary_takes_seeds_together(two):
    text = summary(Table(two))
    assert "| point | seeds | gmacs | alignment |" in text and "cases and training seeds" in text
    assert "| diffcr 20 % | 2 | 0.61 [0.6, 0.62] | 0.85 [0.8, 0.9] |" in text
    assert "| dense | 1 | 0.8 | 0.95 [0.94, 0.96] |" in text


def test_failed_seeds_are_left_out(two, record):
    lost = record("diffcr", 0.2, settings={"ratio": 0.2, "seed": 2}, outcome="failed", reason="NaN")
    assert pooled([*two, lost]).set_index("method").loc["diffcr", "seeds"] == 2
