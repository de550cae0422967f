"""Every command that README and documentation show is one that the program takes, and the tutorial runs."""

import itertools
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from support import command

from harness import cli, registry
from harness.sweep import Profile, Sweep, validated

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TUTORIAL = ROOT / "docs" / "tutorial.md"
HARNESS = re.compile(r"(?:python -m harness|-m harness|dit-harness)(?= )(.*)")
_FENCED = re.compile(r"^(<!-- runs -->\n)?```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_NOTATION = str.maketrans("", "", "[]")


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) < 900


def lines(path: Path, *, run: bool = False) -> Iterator[str]:
    """The lines of a document's shell blocks, continued ones as one. run: of those alone that are marked to run."""
    for marked, language, block in _FENCED.findall(path.read_text(encoding="utf-8")):
        if language in ("", "sh", "bash") and (marked or not run):
            yield from block.replace("\\\n", " ").splitlines()


def commands(path: Path) -> list[str]:
    return [found[1] for line in lines(path) if (found := HARNESS.search(line))]


def parsed(text: str) -> tuple[str, dict[str, Any]]:
    """The name and parameters of a command as the command line reads them; `[--option]`, `A...` and comments are
    notation. Raises what the command line raises for words that it does not take."""
    words = shlex.split(text.translate(_NOTATION).replace("...", ""), comments=True)
    words = list(itertools.takewhile(lambda word: word not in (">", "|", "&&"), words))
    known: Any = typer.main.get_command(cli.app)
    name = ""
    while hasattr(known, "commands"):
        assert words and words[0] in known.commands, f"no command {' '.join([name, *words[:1]])!r}"
        name = words.pop(0)
        known = known.commands[name]
    return name, known.make_context(name, words).params


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_is_one_that_the_program_takes(path: Path) -> None:
    for text in commands(path):
        if text.split()[0] in ("COMMAND", "--debug"):
            continue
        name, given = parsed(text)
        if name in ("run", "profile"):
            model = Sweep if name == "run" else Profile
            validated(model, {k: v for k, v in given.items() if k in model.model_fields and v not in (None, ())})


def test_the_check_finds_what_it_is_for() -> None:
    assert sum(len(commands(path)) for path in DOCUMENTS) > 60
    assert parsed("report RUN [RUN ...] [--latex]")[1]["latex"] is True
    for wrong in ("run --method tome", "runs lst", "recommend", "report RUN --latexx"):
        with pytest.raises((AssertionError, Exception), match="(?i)no such option|no command|missing"):
            parsed(wrong)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_scripts_and_sweep_files_exist(path: Path) -> None:
    text = "\n".join(lines(path))
    named = re.findall(r"\b((?:benchmarks|docs|tests|examples)/[\w/]+\.(?:py|yaml))\b", text)
    named += [f"{module.replace('.', '/')}.py" for module in re.findall(r"python -m (benchmarks\.\w+)", text)]
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_the_tutorial_runs(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In its order, on a small untrained model and 8 images."""
    monkeypatch.chdir(tmp_path)
    shown = [found[1] for line in lines(TUTORIAL, run=True) if (found := HARNESS.search(line))]
    assert [text.split()[0] for text in shown] == ["new", "check", "run", "compare", "recommend", "report"]
    try:
        for text in shown:
            words = shlex.split(text)
            if words[0] == "run":
                words += ["--model", str(tiny_folder), "--cases", "8", "--rounds", "2"]
            code = command(monkeypatch, *words)
            told = capsys.readouterr()
            assert code == 0, f"{text}: {told.out}{told.err}"
            if words[0] == "check":
                assert "exact removal" in told.out and "compos" not in told.out  # --no-pairs
            if words[0] == "compare":
                assert "| `truth[shapes-judge]` (lower is better) |" in told.out
    finally:
        registry.methods.forget("my-method")
        sys.modules.pop("harness_plugin_my_method", None)
    assert (tmp_path / "runs" / "first" / "plots" / "images.png").is_file()
    page = (tmp_path / "runs" / "first" / "report" / "index.html").read_text(encoding="utf-8")
    assert "my-method" in page
