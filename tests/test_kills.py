"""A command that is killed and started again leaves what an undisturbed one leaves. In full: benchmarks/kills.py."""

import random
from pathlib import Path

import pytest
from killing import COMMANDS, trial, undisturbed

METHODS = {"run": ["--methods", "tome,random"]}  # the tiny model has no adapters


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_and_started_again_it_leaves_the_same(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    command = [*COMMANDS[name], "--model", str(tiny_folder), *METHODS.get(name, [])]
    reference = undisturbed(command, tmp_path / "undisturbed")
    when, found = trial(command, reference, tmp_path / "killed", random.Random(5), kills=1)
    assert not found, f"killed {when}"
