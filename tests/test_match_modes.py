"""Budgets of latency in a mode of execution."""

from pathlib import Path
from typing import Any

import pytest

import harness
from harness import budgets, config, ladders, plan, timing
from harness.errors import UserError
from harness.sweep import Sweep
from results.record import Estimate


@pytest.fixture
def modes_cost(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In a mode, a method takes 1 - 0.8 * ratio of dense's time, and `random` fails; the modes that were measured."""
    asked: list[str] = []

    def measured(mode: Any, on: Any, method: Any, *_rest: Any) -> Any:
        asked.append(mode)
        if method.name == "random":
            raise RuntimeError("no such kernel")
        ratio = Estimate(value=1 - 0.8 * (method.ratio or 0), n=2, unit="r", convention="made up", role="cost")
        return {f"latency_ratio[{mode}]": ratio}, {}

    monkeypatch.setattr(timing, "measured", measured)
    return asked


def test_methods_are_tuned_and_measured_in_the_mode(
    small: dict[str, Any], tmp_path: Path, modes_cost: list[str]
) -> None:
    run = harness.run("tome", **{**small, "match": "latency[compile]=0.8", "out": tmp_path})
    assert not run.failed()
    assert set(modes_cost) == {"compile"}
    (match,) = run.matches
    assert match["axis"] == "latency[compile]" and match["cost"] == pytest.approx(0.8, rel=0.01) and match["met"]
    for record in run.records:
        assert "latency_ratio[compile]" in record.estimates  # --mode did not name it
    said = (tmp_path / "tables" / "matched.md").read_text()
    assert "## latency[compile] 0.8" in said and "| latency_ratio | latency_ratio[compile] | gmacs |" in said


def test_modes_that_a_method_or_device_has_not_are_refused(
    small: dict[str, Any], tmp_path: Path, modes_cost: list[str]
) -> None:
    with pytest.raises(UserError, match="mode 'graph' captures CUDA graphs, and the device is 'cpu'"):
        config.build({**small, "match": "latency[graph]=0.8"})
    with pytest.raises(UserError, match=r"match: .*latency\[compile\]"):
        config.build({**small, "match": "latency[fast]=0.8"})
    with pytest.raises(UserError, match="'random' cannot be tuned in mode compile: .*no such kernel; leave it out"):
        harness.run("random", **{**small, "match": "latency[compile]=0.8", "out": tmp_path / "alone"})
    run = harness.run("tome,random", **{**small, "match": "latency[compile]=0.8", "out": tmp_path})
    assert {record.method for record in run.records} == {"dense", "tome"}  # the others are not to suffer
    found = {one.method: one.reason for one in budgets.read(tmp_path / "matched.json")}
    assert not found["tome"] and "no such kernel" in found["random"]
    modes_cost.clear()
    sweep = Sweep(**{**small, "methods": "tome,fbcache", "match": "latency[graph]", "budgets": [0.8]})
    with pytest.raises(UserError, match=r"'fbcache' cannot be tuned to latency\[graph\]: it keeps what"):
        ladders.ladders(sweep, plan.load_model(sweep))
    assert not modes_cost
