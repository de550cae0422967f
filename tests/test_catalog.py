"""docs/methods.md and docs/metrics.md are what the registry says."""

from pathlib import Path

from typer.testing import CliRunner

from harness import registry
from harness.catalog import methods_markdown, metrics_markdown
from harness.cli import app

DOCS = Path(__file__).resolve().parent.parent / "docs"


def test_the_reference_of_methods_is_up_to_date() -> None:
    written = (DOCS / "methods.md").read_text()
    assert written == methods_markdown(), "python -m harness list methods --markdown > docs/methods.md"


def test_the_reference_of_metrics_is_up_to_date() -> None:
    written = (DOCS / "metrics.md").read_text()
    assert written == metrics_markdown(), "python -m harness list metrics --markdown > docs/metrics.md"


def test_every_metric_says_what_its_figures_mean() -> None:
    text = metrics_markdown()
    for name in registry.metrics:
        cls = registry.metrics.get(name)
        assert f"\n## {name}\n" in text
        assert cls.about and cls.columns and cls.source and cls.weights and cls.remark
        assert all(f"| `{column.name}` | {column.unit} |" in text and column.about for column in cls.columns)
        assert all(field.description for field in cls.Settings.model_fields.values())


def test_every_method_has_its_section_and_its_settings() -> None:
    text = methods_markdown()
    for name in registry.methods:
        cls = registry.methods.get(name)
        assert f"\n## {name}\n" in text
        assert all(f"| `{setting}` |" in text for setting in cls.Settings.model_fields)
        assert all(field.description for field in cls.Settings.model_fields.values())


def test_list_prints_it() -> None:
    assert CliRunner().invoke(app, ["list", "methods", "--markdown"]).output == methods_markdown()
    assert CliRunner().invoke(app, ["list", "metrics", "--markdown"]).output == metrics_markdown()
