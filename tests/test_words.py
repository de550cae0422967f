"""One set of words: the pydantic models, the command line and the Python API say the same."""

import inspect
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic import BaseModel

import harness
from harness import api, cli, config, runner
from harness.errors import UserError
from harness.sweep import Profile, Sweep

APART = {"plugins": "plugin", "config": "config_file", "progress": None, "listener": None}


@pytest.mark.parametrize(("name", "model"), [("run", Sweep), ("profile", Profile)])
def test_every_option_has_one_name(name: str, model: type[BaseModel]) -> None:
    python = set(inspect.signature(getattr(api, name)).parameters)
    assert set(model.model_fields) <= python
    command = typer.main.get_command(cli.app).commands[name]  # type: ignore[attr-defined]
    options = {parameter.name for parameter in command.params}
    more = python - set(model.model_fields)
    assert {APART.get(word, word) for word in more} - {None} <= options
    hidden = {"task_settings", "metric_settings", "budgets"}  # --task-set, --metric-set, and --match AXIS=BUDGETS
    assert set(model.model_fields) - hidden <= options


def test_the_help_shows_each_default_as_the_model_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    command = typer.main.get_command(cli.app).commands["run"]  # type: ignore[attr-defined]
    shown = {parameter.name: getattr(parameter, "help", "") for parameter in command.params}
    for name, default in (("cases", 64), ("rounds", 12), ("methods", "diffcr,tome"), ("batch", 16), ("seed", 0)):
        assert f"[default: {default}]" in shown[name], name
    assert shown["steps"] == Sweep.model_fields["steps"].description


def test_words_as_on_the_command_line(tmp_path: Path) -> None:
    sweep = runner.sweep_of({"match": "gmacs=0.8,0.7", "methods": "tome", "ratios": "0.1,0.3"}, quick=True)
    assert (sweep.match, sweep.budgets, sweep.ratios, sweep.cases, sweep.rounds) == (
        "gmacs",
        (0.8, 0.7),
        (0.1, 0.3),
        16,
        6,
    )
    (tmp_path / "sweep.yaml").write_text("cases: 8\nmatch: latency=0.9\nmetric_settings: {fid: {weights: a}}\n")
    given = {"metric_settings": {"fid": {"reference": "b"}}, "cases": 4}
    found = runner.sweep_of(given, config=tmp_path / "sweep.yaml", quick=True)
    assert (found.cases, found.match, found.budgets, found.rounds) == (4, "latency", (0.9,), 6)
    assert found.metric_settings == {"fid": {"weights": "a", "reference": "b"}}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"match": "gmacs=a"}, "budgets: expects numbers separated by commas, got 'a'"),
        ({"ratios": "0.1;0.2"}, "ratios: expects numbers separated by commas"),
        ({"seed": -1}, "seed: .*greater than or equal to 0"),
        ({"rounds": 1}, "rounds: .*greater than or equal to 2"),
    ],
)
def test_bad_words_are_one_line(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        config.build(values)


def test_names_of_run_folders(tmp_path: Path) -> None:
    sweep = config.build({})
    assert runner.run_folder(sweep, None, "mine") == Path("results/runs/mine")
    assert runner.run_folder(sweep, tmp_path) == tmp_path
    for name in ("a/b", "..", ""):
        with pytest.raises(UserError, match="plain folder name"):
            runner.run_folder(sweep, None, name)
    with pytest.raises(UserError, match="give --name or --out, not both"):
        runner.run_folder(sweep, tmp_path, "mine")


def test_another_seed_is_another_workload_with_other_noise(small: dict[str, Any], tmp_path: Path) -> None:
    small["metrics"] = "paired"
    first, second = (harness.run("dense", out=tmp_path / str(seed), seed=seed, **small) for seed in (0, 1))
    assert [c.prompt for c in first.records[0].cases] == [c.prompt for c in second.records[0].cases]
    assert not {c.seed for c in first.records[0].cases} & {c.seed for c in second.records[0].cases}
    assert first.records[0].key != second.records[0].key
    one, other = first.images(first.records[0]), second.images(second.records[0])
    assert one is not None and other is not None and (one != other).any()
    with pytest.raises(UserError, match="seed: 0 there, 1 asked for"):
        harness.run("tome", out=tmp_path / "0", seed=1, **small)


def test_the_version_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["harness", "--version"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code and capsys.readouterr().out.strip() == harness.__version__
