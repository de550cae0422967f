"""docs/methods.md is what the registry says."""

from pathlib import Path

from typer.testing import CliRunner

from harness import registry
from harness.cli import app
from harness.describe import methods_markdown

DOCS = Path(__file__).resolve().parent.parent / "docs" / "methods.md"


def test_the_reference_of_methods_is_up_to_date() -> None:
    assert DOCS.read_text() == methods_markdown(), "python -m harness list methods --markdown > docs/methods.md"


def test_every_method_has_its_section_and_its_settings() -> None:
    text = methods_markdown()
    for name in registry.methods:
        cls = registry.methods.get(name)
        assert f"\n## {name}\n" in text
        assert all(f"| `{setting}` |" in text for setting in cls.Settings.model_fields)
        assert all(field.description for field in cls.Settings.model_fields.values())


def test_list_prints_it() -> None:
    assert CliRunner().invoke(app, ["list", "methods", "--markdown"]).output == methods_markdown()
