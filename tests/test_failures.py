"""What a person reads when something of their own fails: where, why, and what to do."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from support import command

import harness
from harness import cli, config, registry
from harness.errors import UserError
from harness.models import Model, adapters

RAISES = """
from contextlib import contextmanager
import harness
from harness.method import Method, RatioSettings

def share(tokens):
    return 1 / (tokens - tokens)

@harness.methods.register("divides")
class Divides(Method):
    Settings = RatioSettings

    @contextmanager
    def attach(self, backbone, state=None):
        with backbone.advise("block", lambda call: call.run(call.x) * share(call.grid.tokens)):
            yield
"""
LINE = 1 + next(i for i, line in enumerate(RAISES.splitlines()) if "return 1 /" in line)
FITTED = """
from contextlib import contextmanager
from pydantic import Field
import harness
from harness.method import Method, RatioSettings

class Settings(RatioSettings):
    seed: int = Field(0, description="of the fit")
    kind: str = Field("a", description="of the router")
    top: int = Field(1, description="of no adapter")

@harness.methods.register("fitted")
class Fitted(Method):
    Settings = Settings
    needs_state = True

    def adapter(self):
        return f"fitted-{self.percent}{self.seed_suffix}-{self.settings.kind}"

    @contextmanager
    def attach(self, backbone, state=None):
        yield
"""


def test_a_failing_method_says_where_and_its_traceback_is_kept(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plugin = tmp_path / "mine.py"
    plugin.write_text(RAISES)
    words = ["run", "--methods", "divides", "--plugin", "mine.py", "--model", str(tiny_folder), "--cases", "2",
             "--rounds", "2", "--ratios", "0.3", "--metrics", "paired", "--out", "run"]  # fmt: skip
    told = {}
    try:
        for name, more in {"plain": [], "debug": ["--debug"]}.items():
            assert command(monkeypatch, *words, *more) == 1
            told[name] = "".join(capsys.readouterr())
    finally:
        registry.methods.forget("divides")
    reason = f"ZeroDivisionError: division by zero (mine.py, line {LINE})"
    (failed,) = harness.open_run(tmp_path / "run").failed()
    assert failed.reason == reason
    assert "return 1 / (tokens - tokens)" in failed.traceback
    logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert logged[-1]["reason"] == reason and logged[-1]["traceback"] == failed.traceback
    assert "traceback" not in logged[0]  # dense
    assert "Traceback" not in told["plain"] and f"(mine.py, line {LINE})" in told["plain"]
    assert "Traceback" in told["debug"] and "return 1 / (tokens - tokens)" in told["debug"]


@pytest.mark.parametrize(
    ("group", "body", "said"),
    [
        ("methods", "class Mine:\n    pass", "is the class Mine, which does not derive from harness.method.Method"),
        ("methods", "def mine():\n    pass", "is a function, which does not derive from harness.method.Method"),
        ("metrics", "class Mine:\n    pass", "does not derive from harness.metric.Metric"),
        ("tasks", "class Mine:\n    pass", "does not derive from harness.task.Task"),
        ("methods", "class Mine(harness.method.Method):\n    pass", r"\(class Mine\) lacks attach"),
    ],
)
def test_a_plugin_of_the_wrong_kind(group: str, body: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(f"import harness\nimport harness.method\n\n\n@harness.{group}.register('mine')\n{body}\n")
    with pytest.raises(UserError, match=said):
        registry.load_plugin(path)
    assert "mine" not in getattr(registry, group)


def test_an_unknown_method_mentions_plugins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["harness", "run", "--methods", "mine"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: unknown method 'mine': ") and "--plugin FILE" in line


@pytest.mark.parametrize(
    ("method", "settings", "options"),
    [
        ("uniform", {"ratio": 0.2}, "uniform --model MODEL --ratio 0.2`"),
        ("uniform", {"ratio": 0.2, "seed": 3}, "uniform --model MODEL --ratio 0.2 --set seed=3`"),
        ("diffcr", {"ratio": 0.3, "axes": "layer"}, "diffcr --model MODEL --ratio 0.3 --set axes=layer`"),
        ("dense-ft", {"seed": 1}, "dense-ft --model MODEL --set seed=1`"),
        ("fitted", {"ratio": 0.2, "seed": 1, "kind": "b c", "top": 4},
         "fitted --model MODEL --ratio 0.2 --set seed=1 --set 'kind=b c' --plugin PLUGIN`"),
    ],
)  # fmt: skip
def test_a_missing_adapter_says_how_to_fit_it(
    model: Model, tmp_path: Path, method: str, settings: dict[str, Any], options: str
) -> None:
    """Settings that the adapter's name does not depend on are left out."""
    path = tmp_path / "fitted.py"
    path.write_text(FITTED)
    try:
        registry.load_plugin(path)
        with pytest.raises(UserError) as caught:
            adapters.state_of(config.method_of(method, settings), model)
    finally:
        registry.methods.forget("fitted")
    expected = "`python -m harness fit " + options.replace("MODEL", model.name).replace("PLUGIN", str(path))
    assert str(caught.value).endswith(expected)
