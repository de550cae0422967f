from pathlib import Path

import pytest

from harness import registry
from harness.errors import UserError
from harness.method import Method


def test_builtins_come_through_entry_points() -> None:
    assert {"dense", "diffcr", "static", "tome", "uniform"} <= set(registry.methods)
    assert registry.methods.get("tome").name == "tome"


def test_names_match_classes() -> None:
    for group in (registry.methods, registry.tasks, registry.metrics):
        for name in group:
            assert group.get(name).name == name


def test_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(UserError, match="did you mean 'diffcr'"):
        registry.methods.get("difcr")


def test_duplicate_names_are_refused() -> None:
    with pytest.raises(UserError, match="registered already"):
        registry.methods.register("tome")(Method)


def test_plugin_registers(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import harness\nfrom methods.dense import Dense\n\n"
        "@harness.methods.register('mine-too')\nclass Mine(Dense):\n    pass\n"
    )
    try:
        registry.load_plugin(path)
        registry.load_plugin(path)  # a second time is no error
        assert registry.methods.get("mine-too").name == "mine-too"
    finally:
        registry.methods.forget("mine-too")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ny = 1 / 0\n", "line 2: ZeroDivisionError"),
        ("def broken(:\n", "line 1: SyntaxError"),
        ("import no_such_module_anywhere\n", "line 1: ModuleNotFoundError"),
    ],
)
def test_a_broken_plugin_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        registry.load_plugin(path)


def test_a_missing_plugin_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        registry.load_plugin(tmp_path / "nowhere.py")
