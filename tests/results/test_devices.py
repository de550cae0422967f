"""Runs of one workload on two devices, joined by point."""

import json
import sqlite3

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.cli import app
from results.analysis.differences import NotComparable
from results.compare import OtherWorkloads
from results.devices import side_by_side
from results.run_folder import STORE
from results.store import Store

N = 32
DENSE = np.random.default_rng(0).gamma(9, 2 / 3, N)


@pytest.fixture
def run(tmp_path, judged, estimate):
    """Factory: a run folder of dense and one method on a device; off: what the method's values are off by."""

    def make(name, device, ratio, off=0.0, cases="c", more=None):
        with Store(tmp_path / name / STORE) as store:
            for method, strength, values, latency in (("dense", None, DENSE, 1.0), ("m", 0.2, DENSE + 1 + off, ratio)):
                timed = estimate(latency, low=latency - 0.01, high=latency + 0.01, n=12, unit="r", role="cost")
                found = {"latency_ratio": timed, "gmacs": estimate(latency, unit="GMACs", role="cost")}
                found |= {
                    figure: estimate(value, n=12, unit="r") for figure, value in (more or {}).get(method, {}).items()
                }
                store.put(
                    judged(
                        method, strength, values, estimates=found, device=device, key=f"key-of-{name}-{method}",
                        fingerprint={"weights": "w", "cases": cases},
                    )
                )  # fmt: skip
        return tmp_path / name

    return make


def test_one_quality_and_a_latency_for_each(run, tmp_path):
    table = side_by_side([run("a", "cpu", 0.9), run("b", "cuda", 1.2)])
    assert list(table["point"]) == ["dense", "m 20 %"]
    row = table.iloc[1]
    assert (row["latency_ratio[cpu]"], row["latency_ratio[cuda]"]) == (0.9, 1.2)
    assert row["quality[cpu]"] == row["quality[cuda]"] == pytest.approx((DENSE + 1).mean())
    assert row["agrees[cuda]"] and row["difference[cuda]"] == 0
    assert list(table["front[cpu]"]) == [True, True] and list(table["front[cuda]"]) == [True, False]
    said = CliRunner().invoke(app, ["devices", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "o")])
    assert said.exit_code == 0 and "| m 20 % |" in said.stdout and "1.2 [1.19, 1.21]" in said.stdout
    assert {path.name for path in (tmp_path / "o").rglob("*.*")} == {"devices.csv", "devices.md", "devices.png"}


def test_each_mode_of_execution_has_its_own_latency(run, tmp_path):
    graph = {"dense": {"latency_ratio[graph]": 1.0, "device_busy": 0.5}, "m": {"latency_ratio[graph]": 0.8}}
    a, b = run("a", "cpu", 0.9), run("b", "cuda", 1.2, more=graph)
    table = side_by_side([a, b])
    assert list(table["latency_ratio[cuda, graph]"]) == [1.0, 0.8] and "latency_ratio[cpu, graph]" not in table
    assert list(table["front[cuda]"]) == [True, False] and list(table["front[cuda, graph]"]) == [True, True]
    assert table["launch_bound[cuda]"].all() and not table["launch_bound[cuda, graph]"].any()
    said = CliRunner().invoke(app, ["devices", str(a), str(b), "--out", str(tmp_path / "o")])
    heads, row = (line for line in said.stdout.splitlines() if line.startswith(("| point", "| m 20 %")))
    cells = dict(zip(heads.split(" | "), row.split(" | "), strict=True))
    assert cells["latency / dense, cuda [95 %]"] == "1.2 [1.19, 1.21] *launch-bound*"
    assert cells["latency / dense, cuda, graph [95 %]"].startswith("0.8") and "latency / limit, cpu" in cells


def test_a_front_holds_points_under_the_same_settings_of_the_task_alone(tmp_path, judged, estimate):
    """Ratios of latency are to dense under these; a front over both would hold the crop's dense against the whole's."""
    for name, device in (("a", "cpu"), ("b", "cuda")):
        with Store(tmp_path / name / STORE) as store:
            for strategy, off, cost in (("whole", 0.0, 4.0), ("crop", 1.0, 1.0)):
                for method, ratio, worse in (("dense", None, 0.0), ("m", 0.2, 0.5)):
                    latency = 0.9 if ratio else 1.0
                    timed = estimate(latency, low=latency - 0.01, high=latency + 0.01, n=12, unit="r", role="cost")
                    gmacs = estimate(latency * cost, unit="GMACs", role="cost")
                    store.put(
                        judged(
                            method, ratio, DENSE + off + worse, estimates={"latency_ratio": timed, "gmacs": gmacs},
                            device=device, key=f"{name} {method} {strategy}", task_settings={"strategy": strategy},
                            fingerprint={"weights": "w", "cases": "c"},
                        )
                    )  # fmt: skip
    table = side_by_side([tmp_path / "a", tmp_path / "b"])
    assert len(table) == 4 and table["front[cpu]"].all() and list(table["gmacs"]) == [1, 0.9] * 2


def test_a_quality_that_depends_on_the_device_is_marked(run, tmp_path):
    table = side_by_side([run("a", "cpu", 0.9), run("b", "cuda", 1.2, off=0.5)])
    assert not table["agrees[cuda]"].iloc[1] and table["difference[cuda]"].iloc[1] == pytest.approx(0.5)
    said = CliRunner().invoke(app, ["devices", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "o")])
    assert "**differs**" in said.stdout


def test_what_cannot_be_joined_is_refused(run, tmp_path):
    a, other = run("a", "cpu", 0.9), run("c", "cuda", 0.9, cases="others")
    with pytest.raises(OtherWorkloads) as error:
        side_by_side([a, other])
    assert error.value.differing == ("cases: c in A, others in B",)
    with pytest.raises(NotComparable, match="two runs or more"):
        side_by_side([a])
    with sqlite3.connect(run("d", "cuda", 0.9) / STORE) as store:
        for key, body in store.execute("SELECT key, body FROM record").fetchall():
            changed = json.loads(body) | {"settings": {"other": 1}}
            store.execute("UPDATE record SET body = ? WHERE key = ?", (json.dumps(changed), key))
    with pytest.raises(NotComparable, match="no point is in all runs"):
        side_by_side([a, tmp_path / "d"])
    for folders, words in (([a, other], "cases: c in A"), ([a, tmp_path / "absent"], "absent")):
        said = CliRunner().invoke(app, ["devices", *map(str, folders)])
        assert said.exit_code == 2 and words in said.stderr and "Traceback" not in said.output


def test_every_run_has_a_name_of_its_own(run, tmp_path):
    table = side_by_side([run("a", "cpu", 0.9), run("b", "cpu", 1.2), run("c", "cpu", 1.5)])
    assert list(table.filter(like="latency_ratio[").iloc[1]) == [0.9, 1.2, 1.5]


def test_a_run_without_the_metric_is_named(run, tmp_path):
    a, b = run("a", "cpu", 0.9), run("b", "cuda", 1.2)
    with sqlite3.connect(b / STORE) as store:
        for key, body in store.execute("SELECT key, body FROM record").fetchall():
            held = json.loads(body)
            held["estimates"].pop("truth[judge]")
            store.execute("UPDATE record SET body = ? WHERE key = ?", (json.dumps(held), key))
    with pytest.raises(NotComparable, match=r"b has no truth\[judge\], by which devices are checked"):
        side_by_side([a, b])
