"""Whatever lies in the user's folder: the installed packages win."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EDITABLE = f"""
import importlib.util, sys
from importlib.machinery import PathFinder

class Finder:
    '''What setuptools puts behind Python's own path for an editable install.'''
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in ("harness", "methods", "results", "tasks"):
            return importlib.util.spec_from_file_location(name, f"{ROOT}/{{name}}/__init__.py",
                                                          submodule_search_locations=[f"{ROOT}/{{name}}"])

sys.meta_path.insert(sys.meta_path.index(PathFinder) + 1, Finder)
"""
USES = """
import harness
import methods, tasks, results
from results.record import Record
print(harness.open_run, methods.__file__, tasks.__file__, results.__file__)
"""


def _run(folder: Path, *command: str, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False, env=environment
    )


@pytest.fixture(params=["files", "folders", "packages"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A user's folder that holds things of these names."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("results", "tasks", "methods"):
        if request.param == "files":
            (home / f"{name}.py").write_text("raise RuntimeError('the user\\'s own')\n")
        else:
            (home / name).mkdir()
            (home / name / "runs.txt").write_text("mine")
            if request.param == "packages":
                (home / name / "__init__.py").write_text("raise RuntimeError('the user\\'s own')\n")
    return home


@pytest.fixture(params=["on the path", "editable"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where Python finds the installed packages: on its path, or behind it, as with an editable install."""
    if request.param == "on the path":
        return ROOT
    place = tmp_path / "site"
    place.mkdir()
    (place / "sitecustomize.py").write_text(EDITABLE)
    return place


def test_commands_and_scripts_run_there(folder: Path, path: Path) -> None:
    done = _run(folder, "-m", "harness", "list", "methods", path=path)
    assert done.returncode == 0 and "diffcr" in done.stdout, done.stderr
    (folder / "script.py").write_text(USES)
    done = _run(folder, "script.py", path=path)
    assert done.returncode == 0, done.stderr
    assert all(str(ROOT / name / "__init__.py") in done.stdout for name in ("methods", "tasks", "results"))


def test_one_that_was_imported_before_is_named(tmp_path: Path) -> None:
    (tmp_path / "results.py").write_text("")
    done = _run(tmp_path, "-c", "import results, harness")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: harness has a package 'results'") and str(tmp_path / "results.py") in last


def test_a_sweep_runs_in_processes_of_its_own_there(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("raise RuntimeError('the user\\'s own')\n")
    done = _run(tmp_path, "-m", "harness", "run", "--methods", "dense", "--model", str(tiny_folder), "--cases", "2",
                "--rounds", "2", "--metrics", "paired", "--isolate")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "results" / "runs").is_dir()  # the folder that it makes hides nothing the next time
    again = _run(tmp_path, "-m", "harness", "list", "metrics")
    assert again.returncode == 0 and "psnr" in again.stdout, again.stderr
