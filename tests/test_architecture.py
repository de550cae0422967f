"""Who may import whom, read off the source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("harness", "methods", "tasks", "results")
MAY = {
    "results": {"results"},
    "harness": {"harness", "results"},
    "methods": {"harness", "methods"},
    "tasks": {"harness", "results", "tasks"},
}
DIFFUSERS = ("harness/backbones/", "harness/models/", "harness/zoo/", "methods/caching/")


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            found.add(node.module or "")
    return found


def _files() -> list[Path]:
    return [path for package in OURS for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("path", _files(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_point_one_way(path: Path) -> None:
    inside = path.relative_to(ROOT)
    package, imports = inside.parts[0], _imports(path)
    ours = {name.split(".")[0] for name in imports} & set(OURS)
    assert ours <= MAY[package], f"{inside} imports {ours - MAY[package]}"
    if package == "results":
        assert "torch" not in {name.split(".")[0] for name in imports}
    if any(name.split(".")[0] == "diffusers" for name in imports):
        assert inside.as_posix().startswith(DIFFUSERS)
    if package == "methods":
        mine = inside.parts[1].removesuffix(".py")
        for name in imports:
            if name.startswith("methods."):
                assert name.split(".")[1] in (mine, "common"), f"{inside}: methods never import each other"
    if inside.as_posix().startswith(("harness/training/", "harness/fitting/")):
        assert not any(name.startswith("harness.zoo.shapes.stages") for name in imports)


def test_the_engine_knows_no_plugin_by_name() -> None:
    words = ("diffcr", "tome", "uniform", "static", "kid", "fid")
    for name in ("engine.py", "plan.py", "attach.py", "executors/local.py", "training/loop.py", "fitting/fit.py"):
        tree = ast.parse((ROOT / "harness" / name).read_text())
        strings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        assert not strings & set(words), name
