"""Fronts of a table: which points are on them, and which share none."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from results import Table
from results.report import fronts
from results.tables import terminal
from results.tables.markdown import render


def printed(table: Table, width: int = 120) -> str:
    stream = io.StringIO()
    terminal.show(table, Console(file=stream, width=width))
    return stream.getvalue()


def two_points(record, estimate, **replicates):
    return [
        record("dense", estimates={
            "gmacs": estimate(10.0, role="cost"),
            "kid": estimate(1.0, role="quality", better="lower", replicates=replicates.get("dense", ())),
        }),
        record("tome", 0.2, estimates={
            "gmacs": estimate(5.0, role="cost"),
            "kid": estimate(2.0, role="quality", better="lower", replicates=replicates.get("tome", ())),
        }),
    ]  # fmt: skip


def test_pareto_by_hand(record, estimate):
    records = two_points(record, estimate, dense=(1.0, 1.0, 3.0, 3.0), tome=(2.0, 2.0, 2.0, 2.0))
    got = Table(records).pareto("gmacs", "kid")
    assert list(got.columns) == [
        "group", "method", "settings", "ratio", "cost", "quality", "low", "high", "on_front", "front_share", "key"
    ]  # fmt: skip
    assert got["method"].tolist() == ["tome", "dense"]  # cheapest first
    assert got["on_front"].tolist() == [True, True]
    assert got["front_share"].tolist() == [1.0, 0.5]


def test_pareto_pairs_the_first_replicates_and_skips_unusable_ones(record, estimate):
    records = two_points(record, estimate, dense=(3.0, 1.0, float("nan"), 1.0, 3.0), tome=(2.0, 2.0, 2.0, 2.0))
    assert Table(records).pareto("gmacs", "kid")["front_share"].tolist() == pytest.approx([1.0, 2 / 3])


def test_exact_figures_have_no_share(record, estimate):
    assert Table(two_points(record, estimate)).pareto("gmacs", "kid")["front_share"].isna().all()


@pytest.mark.parametrize("n", [999, 1000])
def test_sets_of_few_images_have_no_front(record, estimate, n):
    def point(method, gmacs, fid):
        figures = {"fid[judge]": estimate(fid, n=n, role="quality", better="lower", replicates=(fid, fid))}
        costs = {name: estimate(gmacs, role="cost", better="lower") for name in ("gmacs", "energy_j")}
        return record(method, estimates=costs | figures)

    records = [point("dense", 10.0, 1.0), point("tome", 5.0, 2.0)]
    got = Table(records).pareto("gmacs", "fid[judge]")
    assert got["on_front"].tolist() == [n == 1000] * 2 and got["front_share"].isna().all() == (n < 1000)
    for cost in ("gmacs", "energy_j"):
        shown = fronts.fronts(records)[f"{cost}|fid[judge]"]
        assert len(shown) == 2 and all(on == (n == 1000) for on, _ in shown.values())
    assert ("\n| ● |" in render(Table(records))) == (n == 1000)


def test_records_of_different_fingerprints_share_no_front(record, estimate):
    first, second = two_points(record, estimate)
    better = second.model_copy(update={"fingerprint": {"weights": "other"}})
    cheap = estimate(0.5, role="quality", better="lower")
    better = better.model_copy(update={"estimates": better.estimates | {"kid": cheap}})
    table = Table([first, better])
    got = table.pareto("gmacs", "kid")
    assert got["group"].tolist() == [1, 2]
    assert got["on_front"].tolist() == [True, True]  # in one group, dense would be dominated
    assert printed(table).count("text_to_image") == 2


def test_a_point_without_a_number_is_off_every_front(record, estimate):
    first, second = two_points(record, estimate)
    lost = record("lost", estimates={"gmacs": estimate(1.0), "kid": estimate(float("nan"), role="quality")})
    table = Table([first, second, lost, record("bare")])
    assert set(table.pareto("gmacs", "kid")["method"]) == {"dense", "tome"}


def test_metrics_come_from_role_and_direction_alone(record, estimate):
    estimates = {
        "gmacs": estimate(1.0), "oddity": estimate(2.0, role="quality"), "note": estimate(3.0),
        "novel": estimate(4.0, role="quality", better="higher"),
    }  # fmt: skip
    table = Table([record(estimates=estimates)])
    assert list(table.qualities) == ["novel"]
    bounds = ("", "_low", "_high", "_n")
    figures = [name + bound for name in ("note", "oddity", "novel") for bound in bounds]
    assert list(table.frame.columns[-15:]) == [*figures, "seed", "guidance", "key"]
    for cost, quality in (("gmacs", "oddity"), ("note", "novel"), ("gmacs", "missing")):
        with pytest.raises(KeyError, match="no front"):
            table.pareto(cost, quality)
