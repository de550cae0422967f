"""Help, lists and completion: what a user sees first."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness import registry
from harness.cli import app, grouped
from harness.sweep import Profile, Sweep

ROOT = Path(__file__).resolve().parent.parent


def output(*arguments: str, width: int = 200) -> str:
    done = CliRunner().invoke(app, list(arguments), env={"COLUMNS": str(width), "TERMINAL_WIDTH": str(width)})
    assert done.exit_code == 0, done.stderr
    return done.stdout


def python(*arguments: str, **environment: str) -> str:
    own = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run([sys.executable, *arguments], env=own, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", ["run", "profile", "attribute"])
def test_options_of_long_commands_stand_in_groups(command: str) -> None:
    text = output(command, "--help")
    titles = re.findall(r"^([A-Z][\w ,]+):$", text, re.MULTILINE)
    assert titles[-1] == "Options" and {grouped.METHODS, grouped.WORK, grouped.MACHINE, grouped.OUTPUT} <= set(titles)
    options = re.findall(r"^  (--[\w-]+)", text, re.MULTILINE)
    assert len(options) == len(set(options)) and {"--model", "--out", "--plugin", "--help"} <= set(options)
    alone = text[text.index("\nOptions:") :]
    assert re.findall(r"^  (--[\w-]+)", alone, re.MULTILINE) == ["--help"]  # all others have a group


def test_every_field_that_is_an_option_has_a_group() -> None:
    shorthand = {"task_settings", "metric_settings", "budgets"}  # no options of that name
    for model in (Sweep, Profile):
        assert not [name for name in model.model_fields if name not in shorthand and grouped.group_of(name) is None]


def test_help_loads_no_torch() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom harness.cli import app\n"
        "for command in ([], ['run'], ['check'], ['new'], ['doctor'], ['runs', 'list']):\n"
        "    assert CliRunner().invoke(app, [*command, '--help']).exit_code == 0\n"
        "print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    )
    assert python("-c", code).strip() == "[]"


def test_completion_names_commands_and_options() -> None:
    start = "from harness.cli import app; app(prog_name='dit-harness')"
    settings = {"_DIT_HARNESS_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    assert "compare" in python("-c", start, COMP_WORDS="dit-harness com", **settings).split()
    settings["COMP_CWORD"] = "2"
    assert "--methods" in python("-c", start, COMP_WORDS="dit-harness run --meth", **settings).split()
    assert "--install-completion" in output("--help")


@pytest.mark.parametrize("what", ["methods", "metrics", "tasks", "backbones"])
def test_lists_have_a_line_for_each(what: str) -> None:
    text = output("list", what)
    known = getattr(registry, what)
    lines = [line.split()[0] for line in text.splitlines() if line.startswith("  ") and line.split()]
    assert [name for name in lines if name in known] == list(known)


def test_a_name_is_told_in_whole() -> None:
    text = output("list", "methods", "diffcr")
    for said in ("Source: You et al., 2025", "Backbones: dit, flux", "diffcr-lt-30", "Not with ", "temperature"):
        assert said in text
    settings = registry.methods.get("diffcr").Settings.model_fields
    assert all(re.search(rf"^  {name} ", text, re.MULTILINE) for name in settings)
    assert "Column fid" in output("list", "metrics", "fid") and "Default model" in output("list", "tasks", "inpainting")
    assert "FluxTransformer2DModel" in output("list", "backbones", "flux")
    assert "PixArtSigmaPipeline" in output("list", "models", "shapes")
    assert "FluxTransformer2DModel" in output("list", "models", "random:flux-dev")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["methods", "difcr"], "did you mean 'diffcr'"),
        (["backbone"], "did you mean 'backbones'"),
        (["models", "shape"], "did you mean 'shapes'"),
        (["methods", "tome", "--markdown"], "--markdown is for all methods"),
    ],
)
def test_bad_names_are_one_line_and_exit_2(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["list", *arguments])
    assert done.exit_code == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1
