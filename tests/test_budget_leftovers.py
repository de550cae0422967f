"""What a search for budgets leaves: the model as it was, and budgets that outlive a merge of shards."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import harness
from harness import budgets, config, cost, plan, runner
from harness.method import Method
from results.files import HOST, write_atomic
from results.merge import merged
from results.run import Run


def test_a_method_that_changes_weights_at_every_budget_spoils_nothing(
    monkeypatch: pytest.MonkeyPatch, small: dict[str, Any]
) -> None:
    sweep = config.build({**small, "methods": "tome,random", "match": "gmacs", "budgets": [0.9, 0.8]})
    model, seen = plan.load_model(sweep), list[bool]()
    clean = {name: tensor.clone() for name, tensor in model.backbone.transformer.state_dict().items()}

    def whole() -> bool:
        return all(torch.equal(t, clean[name]) for name, t in model.backbone.transformer.state_dict().items())

    def relative(_on: cost.Subject, method: Method, *_: object) -> float:
        seen.append(whole())
        with torch.no_grad():
            next(model.backbone.transformer.parameters()).add_(1)
        return 1 - (method.ratio or 0)

    monkeypatch.setattr(budgets, "relative_cost", relative)
    budgets._search(sweep, model, [], lambda _found: None, lambda _line: None)
    assert len(seen) >= 3 and seen[0] and whole()


def test_merged_shards_keep_their_budgets(small: dict[str, Any], tmp_path: Path) -> None:
    asked = {k: v for k, v in small.items() if k != "ratios"} | {"match": "gmacs", "budgets": [0.8], "fresh": True}
    parts = [tmp_path / str(number) for number in (1, 2)]
    for number, part in enumerate(parts, start=1):
        harness.run("tome,random", shard=f"{number}/2", out=part, **asked)
    run = merged(parts, tmp_path / "merged")
    assert [one["method"] for one in run.matches] == ["tome", "random"]
    assert all(any(r.settings == one["chosen"] for r in run.records) for one in run.matches)
    assert "## gmacs 0.8" in (tmp_path / "merged" / "tables" / "matched.md").read_text()


@pytest.mark.parametrize("working", [True, False], ids=["at work", "gone"])
def test_a_search_keeps_what_another_in_the_same_fresh_folder_finds(
    monkeypatch: pytest.MonkeyPatch, small: dict[str, Any], tmp_path: Path, working: bool
) -> None:
    """Where that one is gone and has left no record, what it found is nobody's."""
    monkeypatch.setattr(budgets, "relative_cost", lambda _on, method, *_: 1 - (method.ratio or 0.0))
    asked = {**small, "match": "gmacs", "budgets": [0.8]}

    def search(method: str) -> list[str]:
        sweep = config.build({**asked, "methods": method})
        budgets.resolved(sweep, tmp_path, plan.load_model(sweep))
        return [one.method for one in budgets.read(tmp_path / "matched.json")]

    assert search("tome") == ["tome"]
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        if working:
            write_atomic(tmp_path / "running" / f"{HOST}.{other.pid}.process", "")
        assert search("random") == (["tome", "random"] if working else ["random"])
        other.communicate(b"\n")


def test_what_is_sought_is_kept_until_points_rest_on_it(
    monkeypatch: pytest.MonkeyPatch, small: dict[str, Any], tmp_path: Path
) -> None:
    """Another search, between the end of this one and its first record, finds it at work."""
    monkeypatch.setattr(budgets, "relative_cost", lambda _on, method, *_: 1 - (method.ratio or 0.0))
    seen: list[tuple[bool, bool]] = []

    def executed(*_: object, **__: object) -> Run:
        marks = list((tmp_path / "run" / "running").iterdir())
        seen.append((len(marks) == 1, (tmp_path / "run" / "store.sqlite").exists()))
        return Run([], tmp_path)

    monkeypatch.setattr(runner, "execute", executed)
    harness.run("tome", out=tmp_path / "run", **{**small, "match": "gmacs", "budgets": [0.8]})
    assert seen == [(True, False)] and not (tmp_path / "run" / "running").exists()


def test_a_method_that_fails_leaves_the_others_their_budgets(
    monkeypatch: pytest.MonkeyPatch, small: dict[str, Any], tmp_path: Path
) -> None:
    said: list[str] = []

    def relative(_on: cost.Subject, method: Method, *_: object) -> float:
        if method.name == "tome" and broken:
            raise ValueError("made for 16 steps, not for 4")
        return 1 - (method.ratio or 0)

    monkeypatch.setattr(budgets, "relative_cost", relative)
    sweep, broken = config.build({**small, "methods": "tome,random", "match": "gmacs", "budgets": [0.8]}), True
    found, matches = budgets.resolved(sweep, tmp_path, plan.load_model(sweep), said.append)
    assert [spec.name for spec in found.methods] == ["random"] and [one.met for one in matches] == [False, True]
    assert "tome: could not be tuned to gmacs 0.8, and is left out: ValueError: made for 16 steps" in said[0]
    assert budgets.read(tmp_path / "matched.json") == matches
    broken = False  # it is tried again
    found, matches = budgets.resolved(sweep, tmp_path, plan.load_model(sweep), said.append)
    assert [spec.name for spec in found.methods] == ["tome", "random"] and all(one.met for one in matches)
