"""Latencies in modes of execution: their names, the fastest mode, and tables, fronts, verdicts and bounds on them."""

import io

import numpy as np
import pytest
from rich.console import Console

from results import Table
from results.analysis import modes
from results.analysis.bounds import BadBound, bound, figure
from results.analysis.compare import compare
from results.analysis.recommend import candidates, ranked
from results.analysis.statistics import BLOCKS
from results.analysis.verdict import judge
from results.report import fronts
from results.tables import markdown, terminal
from results.tables.verdict import document, show

DENSE = np.random.default_rng(0).gamma(9, 2 / 3, 64)
PAIRS = [1.0 + 0.01 * i for i in range(12)]
COMPILE, GRAPH = "compile", "compile+graph"


@pytest.fixture
def point(judged, estimate):
    """A point with ratios and seconds in three modes; the GPU idles in eager. Compiled it takes the least ratio, and
    with graphs the least seconds."""

    def make(method, ratio, eager, compiled, graphs):
        figures, samples = {}, {}
        for mode, value, seconds, share in (
            ("eager", eager, 9, 0.3), (COMPILE, compiled, 4, 0.8), (GRAPH, graphs, 2, 0.99),
        ):  # fmt: skip
            more = {"n": 12, "unit": "method / dense", "role": "cost", "better": "lower", "convention": f"mode {mode}"}
            bounds = {"low": value - 0.01, "high": value + 0.01}
            figures[modes.named("latency_ratio", mode)] = estimate(value, **bounds, **more)
            figures[modes.named("latency_s", mode)] = estimate(value * seconds, unit="s", role="cost", better="lower")
            figures[modes.named("device_busy", mode)] = estimate(share, unit="share of wall time")
            samples[modes.named("latency_dense_s", mode)] = PAIRS
            samples[modes.named("latency_method_s", mode)] = [value * one for one in PAIRS]
        return judged(method, ratio, DENSE, estimates=figures, samples=samples)

    return make


@pytest.fixture
def records(point):
    return [point("dense", None, 1.0, 1.0, 1.0), point("a", 0.2, 1.5, 0.7, 0.8), point("b", 0.3, 1.4, 0.9, 0.6)]


def test_names():
    assert modes.named("latency_s", "eager") == "latency_s"
    assert modes.split("latency_ratio[compile+graph]") == ("latency_ratio", GRAPH)
    for other in ("fid[shapes-judge]", "latency_ratio", "latency_ratio[compile]_low", "latency_vae_s"):
        assert modes.split(other) == (other, "eager")
    assert figure("latency[compile]", ["latency_ratio", "latency_ratio[compile]"]) == "latency_ratio[compile]"
    assert figure("latency", ["latency_ratio", "latency_ratio[compile]"]) == "latency_ratio"
    with pytest.raises(BadBound, match=r"no metric or cost 'latency\[graph\]'"):
        figure("latency[graph]", ["latency_ratio", "latency_ratio[compile]"])


def test_the_fastest_mode_is_of_the_least_seconds_and_not_launch_bound():
    seconds = {"latency_s": 1.0, "latency_s[compile]": 2.0}
    both = {"latency_ratio": 0.9, "latency_ratio[compile]": 0.8, **seconds}
    assert modes.fastest(both) == "latency_ratio"
    assert modes.fastest(both | {"device_busy": 0.5}) == "latency_ratio[compile]"
    assert modes.fastest(both | {"device_busy": 0.5, "device_busy[compile]": 0.5}) == ""
    assert modes.fastest(both | {"latency_s[compile]": float("nan")}) == ""
    assert modes.fastest({"latency_ratio": 0.9, "latency_s": 1.0}) == ""


def test_tables_and_fronts_carry_them(records):
    table = Table(records)
    ratios = ["latency_ratio", "latency_ratio[compile]", "latency_ratio[compile+graph]"]
    assert list(table.costs) == ["gmacs", *ratios]
    rows = table.pareto(ratios[2], "truth[judge]")
    assert list(rows["cost"]) == [0.6, 0.8, 1.0]
    assert fronts.axes(records)[0] == ["gmacs", *ratios]
    assert fronts.title(ratios[1]) == "latency / dense (compile)"
    assert f"{ratios[2]}|truth[judge]" in fronts.fronts(records)
    summary = markdown.summary(table)
    assert "| latency_ratio[compile] | latency_ratio[compile+graph] |" in summary
    assert "0.8 [0.79, 0.81] ◆" in summary
    assert summary.count("◆") == 4  # each point's, and what it means
    stream = io.StringIO()
    terminal.show(table, Console(file=stream, width=120))
    assert stream.getvalue().count("◆") == 4
    assert "Lcg latency ratio [compile+graph]" in " ".join(stream.getvalue().split())


def test_without_modes_nothing_is_marked(table):
    stream = io.StringIO()
    terminal.show(table, Console(file=stream, width=120))
    assert "◆" not in stream.getvalue() + markdown.summary(table)


def test_the_verdict_has_a_word_for_each(records):
    verdict = judge(records)
    cost = verdict.sections[0].blocks[0].to_dense[0].cost
    assert (cost.latency, cost.latency_word) == (1.5, "launch-bound")
    assert [(one.mode, one.latency, one.latency_word) for one in cost.modes] == [
        (COMPILE, 0.7, "faster"), (GRAPH, 0.8, "faster"),
    ]  # fmt: skip
    assert "launch-bound; compile 0.7 [0.69, 0.71] faster; compile+graph 0.8 [0.79, 0.81] faster" in document(verdict)
    stream = io.StringIO()
    show(verdict, Console(file=stream, width=200), 200)
    assert "compile+graph 0.8" in stream.getvalue()


def test_points_compare_in_each_mode(records):
    found = compare(
        records[1],
        records[2],
        ("a", "b"),
        lambda *_: None,
        lambda *_: None,
        [bound("latency[compile]>-20%", "<>", "x")],
    )
    ratios = {one.cost: one.ratio for one in found.costs if one.cost.startswith("latency")}
    assert ratios["latency_ratio[compile]"] == pytest.approx(0.7 / 0.9)
    assert ratios["latency_ratio[compile+graph]"] == pytest.approx(0.8 / 0.6)
    assert not found.conditions[0].fails


def test_a_budget_on_a_mode(records):
    limit = [bound("latency[compile+graph]=0.7", "=", "x")]
    found, left_out = candidates({"a": records[1], "b": records[2]}, records[0], limit, [])
    assert [(one.name, one.probability) for one in ranked(found, "")] == [("b", 1 - 0.5**BLOCKS), ("a", 0.0)]
    assert not left_out
    _, left_out = candidates({"a": records[1]}, records[0], [bound("latency=0.99", "=", "x")], [])
    assert "launch-bound: a GPU idled" in left_out[0]  # eager
