"""The notebook runs, on a small untrained model."""

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
QUICKSTART = ROOT / "examples" / "quickstart.ipynb"


def outputs(cell: Any) -> str:
    return "".join(str(one.get("data", {})) for one in cell["outputs"])


def test_it_is_kept_without_outputs() -> None:
    for cell in nbformat.read(QUICKSTART, as_version=4).cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None


@pytest.mark.slow
def test_the_quickstart_runs(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(QUICKSTART, as_version=4)
    code = [cell for cell in notebook.cells if cell["cell_type"] == "code"]
    settings = {"MODEL": str(tiny_folder), "IMAGES": 4, "ROUNDS": 2, "OUT": str(tmp_path / "run")}
    assert all(f"{name} = " in code[0]["source"] for name in settings)
    code[0]["source"] = "\n".join(f"{name} = {value!r}" for name, value in settings.items())
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [outputs(cell) for cell in code]
    table, compared, front, images, applied = shown[2], shown[3], shown[4], shown[5], shown[-1]
    assert all(name in table for name in ("dense", "tome", "random")) and "p" in compared
    assert "image/png" in front and "image/png" in images
    assert "'same image as dense': False" in applied and "'restored exactly': True" in applied
