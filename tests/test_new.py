"""`python -m harness new`: what it writes runs, and nothing is written over."""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from harness import registry
from harness.cli import app
from harness.errors import UserError
from harness.scaffold import KINDS, new

ROOT = Path(__file__).resolve().parent.parent
NAMES = {"method": "my-method", "metric": "grey", "task": "many_seeds", "backbone": "my-net"}


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.mark.slow
def test_a_new_method_runs_as_it_is(tiny_folder: Path, tmp_path: Path) -> None:
    made = python(tmp_path, "-m", "harness", "new", "method", "my-method")
    assert made.returncode == 0, made.stderr
    assert "python -m harness check my_method/my_method.py" in made.stdout
    ran = python(
        tmp_path, "-m", "harness", "run", "--methods", "my-method", "--plugin", "my_method/my_method.py", "--quick",
        "--cases", "4", "--model", str(tiny_folder), "--metrics", "paired", "--rounds", "2", "--out", "run",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    frame = pd.read_csv(tmp_path / "run" / "tables" / "results.csv").set_index("method")
    assert frame.loc["my-method", "gmacs"] < frame.loc["dense", "gmacs"]


@pytest.mark.slow
def test_the_tests_that_come_along_pass(tmp_path: Path) -> None:
    for kind, name in NAMES.items():
        new(kind, name, tmp_path / name)
    # one family is enough here; all of them are in the method's own hands
    done = python(tmp_path, "-m", "pytest", "-q", "-k", "not test_contract or (pixart and not lazy)", ".")
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_the_project_registers_what_the_file_defines(kind: str, tmp_path: Path) -> None:
    made = new(kind, NAMES[kind], tmp_path / "own")
    project = tomllib.loads(made.project.read_text())
    ((name, value),) = project["project"]["entry-points"][f"harness.{kind}s"].items()
    module, _, cls = value.partition(":")
    assert name == NAMES[kind] and project["tool"]["setuptools"]["py-modules"] == [module] == [made.source.stem]
    assert f"\nclass {cls}(" in made.source.read_text()
    # without it, `pip install -e NAME` finds the folder NAME in the current one in place of its module
    assert project["tool"]["setuptools"]["package-dir"] == {"": "."}
    assert made.test.is_file() and all("{{" not in path.read_text() for path in made.source.parent.iterdir())


def test_a_class_never_hides_what_its_file_imports(tmp_path: Path) -> None:
    made = new("method", "call", tmp_path / "call")
    assert "class CallMethod(Method):" in made.source.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["method", "tome"], "method 'tome' is registered already"),
        (["metric", "fid"], "metric 'fid' is registered already"),
        (["task", "inpainting"], "task 'inpainting' is registered already"),
        (["backbone", "pixart"], "backbone 'pixart' is registered already"),
        (["method", "all"], "registered already"),
        (["method", "2fast"], "cannot name a Python file"),
        (["method", "a b"], "cannot name a Python file"),
        (["method", "a/b"], "cannot name a Python file"),
        (["method", "méthode"], "cannot name a Python file"),
        (["method", "class"], "cannot name a Python file"),
        (["method", ""], "cannot name a Python file"),
        (["method", "json"], "Python has a module 'json' already"),
        (["method", "torch"], "Python has a module 'torch' already"),
        (["metod", "mine"], "did you mean 'method'"),
        (["method", "there"], "there exists already"),
        (["method", "mine", "--out", "a_file"], "a_file exists already"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "a_file").write_text("mine")
    done = CliRunner().invoke(app, ["new", *arguments])
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ") and said in done.stderr and len(done.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a_file", "there"]
    assert (tmp_path / "a_file").read_text() == "mine" and not list((tmp_path / "there").iterdir())


def test_one_file_is_a_plugin_and_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = new("method", "my-both", tmp_path / "own")
    point = EntryPoint("my-both", "my_both:MyBoth", "harness.methods")
    monkeypatch.setattr(registry, "_installed", lambda group: EntryPoints((point,)).select(group=group))
    monkeypatch.syspath_prepend(tmp_path / "own")
    try:
        registry.load_plugin(made.source)
        assert registry.plugin_of(registry.methods.get("my-both")) == made.source
        registry.methods.forget("my-both")
        assert registry.methods.get("my-both").__module__ == "my_both"  # installed, without --plugin
        registry.methods.forget("my-both")
        other = tmp_path / "other.py"
        other.write_text(made.source.read_text())
        with pytest.raises(UserError, match="registered already"):
            registry.load_plugin(other)
    finally:
        registry.methods.forget("my-both")
        sys.modules.pop("my_both", None)


def test_names_of_a_file(tmp_path: Path) -> None:
    made = new("method", "my-own", tmp_path / "own")
    try:
        registry.load_plugin(made.source)
        assert registry.methods.of_file(made.source) == ["my-own"]
        assert registry.methods.of_file(tmp_path / "another.py") == []
    finally:
        registry.methods.forget("my-own")
