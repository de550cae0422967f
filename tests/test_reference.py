"""Kept records: they open as any run does, and the documents say what they hold."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from results import open_run
from results.outputs import write_tables
from results.tables.budgets import write_matched

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "results" / "reference"
STORES = sorted(path.parent.name for path in REFERENCE.glob("*/store.sqlite"))


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import draw as module

    yield module
    sys.modules.pop("draw")


def test_the_documents_are_what_their_records_say(draw: object) -> None:
    found = draw.documents()  # type: ignore[attr-defined]
    assert ROOT / "README.md" in found
    for path in found:
        text = path.read_text(encoding="utf-8")
        assert draw.drawn(text) == text, f"{path.name}: python docs/draw.py"  # type: ignore[attr-defined]


def test_tables_of_measured_figures_are_drawn(draw: object) -> None:
    """Those that are not are listed with a reason, and the list holds no others: README.md is not on it."""
    assert draw.undrawn() == set(draw.UNDRAWN)  # type: ignore[attr-defined]


def test_the_readme_s_picture_is_drawn_from_records(draw: object, tmp_path: Path) -> None:
    quality = "distance_to_dense[shapes-judge]"
    path = draw.picture(open_run(draw.DEFAULT), "gmacs", quality, tmp_path / "a.png")  # type: ignore[attr-defined]
    assert path.stat().st_size > 10_000


@pytest.mark.parametrize("name", STORES)
def test_a_kept_store_opens_and_gives_its_tables(name: str, tmp_path: Path) -> None:
    run = open_run(REFERENCE / name)
    assert (len(run.records) > 1) == (name != "dense_emoji")  # which is dense on every picture, and dense alone
    assert run.records and not run.failed()
    write_tables(run, tmp_path)
    kept = REFERENCE / name / "results.csv"
    if kept.is_file():
        old, new = pd.read_csv(kept).set_index("key"), pd.read_csv(tmp_path / "tables" / "results.csv").set_index("key")
        for column in old.select_dtypes("number"):
            assert np.allclose(old[column], new.loc[old.index, column], equal_nan=True), column


@pytest.mark.parametrize("name", [name for name in STORES if (REFERENCE / name / "matched.json").is_file()])
def test_tables_at_equal_cost_come_from_kept_records(name: str, tmp_path: Path) -> None:
    matches = json.loads((REFERENCE / name / "matched.json").read_text())
    for one in matches:
        one["met"] = abs(one["cost"] - one["budget"]) <= 0.01 * one["budget"]
    write_matched(open_run(REFERENCE / name).records, matches, tmp_path)
    assert (tmp_path / "tables" / "matched.md").read_text() == (REFERENCE / name / "matched.md").read_text()
