"""`python -m harness doctor`: a line for everything, on a broken install too."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.doctor import GROUPS, examine, install, machine, weights
from harness.doctor.line import Line

ROOT = Path(__file__).resolve().parent.parent


def run(folder: Path, broken: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command where these modules raise that."""
    for name, error in broken.items():
        (folder / f"{name}.py").write_text(f"raise {error}\n")
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "harness", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_this_install_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0, done.stdout
    for what in ("Python", "entry points", "packages", "CPU", "model shapes:", "extra [features]", "run folders"):
        assert what in done.stdout
    assert done.stdout.rstrip().endswith("nothing is in the way of a run")


def test_broken_packages_are_lines(tmp_path: Path) -> None:
    broken = {"torch": "OSError('libcudart.so.13: cannot open')", "psutil": "RuntimeError('built for another Python')"}
    done = run(tmp_path, broken, "doctor")
    assert done.returncode == 1 and "Traceback" not in done.stderr + done.stdout
    assert "BAD   torch: " in done.stdout and "OSError: libcudart.so.13: cannot open" in done.stdout
    assert "install torch and torchvision together" in done.stdout
    assert "BAD   memory: cannot be looked at: RuntimeError: built for another Python" in done.stdout
    assert "model shapes: weights and" in done.stdout  # the rest is looked at all the same


def test_it_runs_where_the_command_line_cannot_be_imported(tmp_path: Path) -> None:
    broken = {"pydantic": "ImportError('no module pydantic_core')"}
    done = run(tmp_path, broken | {"torch": "ImportError('none')"}, "doctor")
    assert done.returncode == 1 and "BAD   pydantic: " in done.stdout and "Traceback" not in done.stderr
    other = run(tmp_path, broken, "list", "methods")
    assert other.returncode == 1
    assert other.stderr.strip().splitlines() == [
        "error: the install is broken (no module pydantic_core); python -m harness doctor says what to do"
    ]


def test_a_group_that_raises_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[Line]:
        raise KeyError("driver")
        yield

    for name in GROUPS:
        monkeypatch.setitem(GROUPS, name, broken if name == "disk" else lambda: iter(()))
    (line,) = examine()
    assert line.state == "bad" and line.what == "disk" and "KeyError" in line.found and line.remedy


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "PACKAGE", "no-such-distribution-anywhere")
    (line,) = install.package()
    assert line.state == "bad" and "pip install -e ." in line.remedy


def test_versions_that_are_too_old() -> None:
    assert install._too_old("2.9.1+cpu", ">=2.11") == ">=2.11"
    assert not install._too_old("2.11", ">=2.11") and not install._too_old("3", ">=2.11,<4")
    assert (
        install._import("no-such-distribution-anywhere", ">=2").remedy
        == "pip install 'no-such-distribution-anywhere>=2'"
    )


def test_weights_that_are_missing_or_pointers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = tmp_path / "zoo"
    shutil.copytree(weights.ZOO / "shapes" / "weights", zoo / "shapes" / "weights")
    (zoo / "shapes" / "make.py").touch()
    (zoo / "empty").mkdir()
    (zoo / "empty" / "make.py").touch()
    monkeypatch.setattr(weights, "ZOO", zoo)
    empty, shapes = weights.models()
    assert empty.state == "bad" and "model_index.json is missing" in empty.found and "git restore" in empty.remedy
    assert shapes.state == "ok"
    pipeline = zoo / "shapes" / "weights" / "pipeline"
    (pipeline / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(
        b"version https://git-lfs.github.com/spec/v1"
    )
    (pipeline / "text_encoder" / "model.safetensors").unlink()
    (zoo / "shapes" / "weights" / "judge.safetensors").write_bytes(b"\x00" * 20)
    found = list(weights.models())[1]
    assert found.state == "bad"
    assert "Git LFS pointer" in found.found and "judge.safetensors: " in found.found
    assert "text_encoder has no weights" in found.found


def test_little_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: SimpleNamespace(free=10 * 2**20))
    (line,) = machine.disk()
    assert line.state == "bad" and "10 MiB free" in line.found and "free some space" in line.remedy
