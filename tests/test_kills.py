"""A command that is killed and started again leaves what an undisturbed one leaves. In full: benchmarks/kills.py."""

import random
from pathlib import Path

import pytest
from killing import COMMANDS, trial, undisturbed


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_and_started_again_it_leaves_the_same(name: str, tmp_path: Path) -> None:
    command = COMMANDS[name]
    reference = undisturbed(command, tmp_path / "undisturbed")
    when, found = trial(command, reference, tmp_path / "killed", random.Random(5), kills=1)
    assert not found, f"killed {when}"
