"""Who may import whom, read off the source."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
from import_graph import circles, graph

from harness.doctor.install import _MODULES

ROOT = Path(__file__).resolve().parent.parent
OURS = ("harness", "methods", "tasks", "results")
MAY = {
    "results": {"results"},
    "harness": {"harness", "results"},
    "methods": {"harness", "methods"},
    "tasks": {"harness", "results", "tasks"},
}
DIFFUSERS = ("harness/backbones/", "harness/models/", "harness/zoo/", "methods/caching/")

# Inside harness, from the lowest layer to the highest: a module imports from its own layer and from lower ones alone.
# A package stands for all its modules; "harness" is the package's own `__init__`.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("spec", "errors", "own_packages", "renamed"),  # plain types
    (
        "tokens",
        "guidance",
        "kernels",
        "patching",
        "checkpoints",
        "checksums",
        "leftovers",
        "process_state",
        "registry",
        "shards",
        "text",
        "image_files",
        "versions",
        "workload",
        "scaffold",
        "doctor",
    ),  # tools without a model
    ("sweep",),  # what users ask for
    ("method", "metric", "task"),  # what plugins implement
    ("measure",),  # costs of any callable
    ("backbones",),
    ("models", "limit"),
    ("attach", "modes", "latency_estimates"),
    ("compose",),
    ("catalog", "contract"),  # what is registered, and whether it keeps its promises
    ("config", "cost", "effect", "generation", "timing", "judging", "token_maps"),
    ("training",),  # loop and batches, of recipes and fits
    ("zoo",),
    ("fitting",),
    ("clock",),  # how far latencies can be trusted
    ("engine",),  # a point of an open workload
    ("judges",),
    ("plan",),
    ("profiling",),
    ("executors",),
    ("matches",),
    ("search",),
    ("ladders",),
    ("budgets", "published"),
    ("runner",),
    ("api", "user_pipeline"),
    ("attribution",),
    ("harness",),
    ("cli", "__main__"),
)


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


def test_no_module_imports_itself_through_others() -> None:
    assert circles(graph(ROOT, OURS)) == []


def test_imports_inside_harness_point_down() -> None:
    height = {name: level for level, layer in enumerate(LAYERS) for name in layer}

    def level(module: str) -> int:
        part = module.split(".")[1] if "." in module else module
        assert part in height, f"{module} has no place in LAYERS"
        return height[part]

    imports = graph(ROOT, ["harness"])
    assert not {(a, b) for a, found in imports.items() for b in found if level(b) > level(a)}
    assert set(height) == {module.split(".")[1] if "." in module else module for module in imports}


def test_the_graph_of_imports_and_its_circles(tmp_path: Path) -> None:
    files = {
        "a/__init__.py": "",
        "a/face.py": "from a import tool\nfrom a import missing\n",  # a module, and a name in a/__init__.py
        "a/tool.py": "import os\nif TYPE_CHECKING:\n    import a.face\nelse:\n    import a.late\n",
        "a/late.py": "def f():\n    from a.other import x\n",
        "a/other.py": "class C:\n    def f(self):\n        import a.late\n",
    }
    (tmp_path / "a").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    found = graph(tmp_path, ["a"])
    assert found == {
        "a": set(), "a.face": {"a", "a.tool"}, "a.tool": {"a.late"}, "a.late": {"a.other"}, "a.other": {"a.late"},
    }  # fmt: skip
    assert circles(found) == [{"a.late", "a.other"}]
    found["a.late"].add("a.face")
    assert circles(found) == [{"a.face", "a.tool", "a.late", "a.other"}]


def test_the_engine_knows_no_plugin_by_name() -> None:
    words = ("diffcr", "tome", "uniform", "static", "kid", "fid")
    for name in ("engine.py", "plan.py", "attach.py", "executors/local.py", "training/loop.py", "fitting/fit.py"):
        tree = ast.parse((ROOT / "harness" / name).read_text())
        strings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        assert not strings & set(words), name


def test_every_required_dependency_is_used() -> None:
    """Imported, or, as plotly, a package whose files are read."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = "\n".join(path.read_text() for path in _files())
    for requirement in project["dependencies"]:
        name = re.split(r"[<>=\[ ]", requirement)[0]
        module = _MODULES.get(name, name)
        assert re.search(rf'^\s*(?:import|from) {module}\b|files\("{module}"\)', text, re.MULTILINE), name
