"""Bad input of every kind is one line and exit code 2, before anything is measured; some of it is honoured instead."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import cli, registry
from harness.config import build, read_yaml
from harness.registry import load_plugin, plugins

DEEP = "[" * 100_000
TASK = """
import harness
from harness.spec import Case
from harness.task import Task

def made(name, cases):
    class Bad(Task):
        def cases(self, count, prompts=None, data=None):
            return cases(count)
        def prepare(self, cases): pass
        def generate(self, cases): pass
        def encode(self, cases): pass
    harness.tasks.register(name)(Bad)

made("raising", lambda count: {}["nothing"])
made("few", lambda count: (Case(0, "a", seed=0),))
made("numbers", lambda count: range(count))
"""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--set", "tome.around=[mlp"], "--set 'tome.around=[mlp' is not YAML"),
        (["run", "--set", "tome.around=!!python/object/apply:os.system [ls]"], "is not YAML of plain values"),
        (["run", "--set", f"tome.around={'[' * 20_000}"], "nested too deeply"),
        (["run", "--set", "tome.around=2020-99-99"], "is not YAML of plain values: month must be in 1..12"),
        (["run", "--set", "tome.around={a: 1}"], "around: "),
        (["run", "--set", "diffcr.temperature=.inf"], "finite"),
        (["run", "--set", "=3"], "--set expects NAME=VALUE"),
        (["run", "--task", "inpainting", "--task-set", "mask_area=[0.1"], "'[0.1' in --task-set"),
        (["run", "--task", "inpainting", "--task-set", "mask_area"], "--task-set expects NAME=VALUE[,VALUE...]"),
        (["run", "--guidance", "inf"], "guidance: Input should be a finite number"),
        (["run", "--device", "tpu"], "unknown device 'tpu': expected cpu, cuda or cuda:N"),
        (["run", "--device", "cuda:x"], "unknown device 'cuda:x'"),
        (["run", "--steps", "100000"], "steps: "),
        (["run", "--batch", "99999999999999"], "batch: "),
        (["profile", "--size", "99999999999999", "--device", "meta"], "size: "),
        (["profile", "--batch", "99999999999999", "--device", "meta"], "batch: "),
        (["train", "--set", "stepz=3"], "did you mean 'steps'"),
        (["train", "--set", "steps={"], "is not YAML"),
        (["train", "--set", "steps=many"], "steps: "),
        (["train", "--set", "steps=-1"], "steps: "),
        (["train", "--device", "tpu"], "unknown device 'tpu'"),
        (["fit", "diffcr", "--set", "steps=["], "is not YAML"),
        (["fit", "diffcr", "--set", "stage=1e-12"], "stage: "),
        (["fit", "diffcr", "--ratio", "nan"], "--ratio must lie in (0, 0.9]"),
        (["fit", "diffcr", "--device", "tpu"], "unknown device 'tpu'"),
        (["attribute", "diffcr", "--set", "axes=["], "is not YAML"),
    ],
)  # fmt: skip
def test_words_of_the_command_line(arguments: list[str], said: str, refused: Callable[..., str]) -> None:
    assert said in refused(*arguments)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("methods: [", "is not YAML"),
        ("methods: !!python/name:os.system", "is not YAML of plain values"),
        (DEEP, "nested too deeply"),
        ("\x00", "is not YAML"),
        ("methods: 5", "methods.0: "),
        ("methods: {tome: 5}", "the settings of method 'tome' must be names and values"),
        ("methods: [{name: tome, settings: 5}]", "the settings of method 'tome' must be names and values"),
        ("methods: [{name: tome, 3: 4}]", "methods.0.settings.3"),
        ("methods: {tome: {aroun: mlp}}", "did you mean 'around'"),
        ("task_settings: [1]", "task_settings: "),
        ("{task: inpainting, task_settings: {mask_area: []}}", "mask_area has no value"),
        ("metric_settings: {fid: 1}", "metric_settings.fid: "),
        ("ratios: [.nan]", "ratios"),
        ("{3: 4}", "unknown key"),
    ],
)
def test_sweep_files(text: str, said: str, refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(text)
    assert said in refused("run", "--config", "sweep.yaml")


def test_a_sweep_file_that_is_no_text(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_bytes(b"\xff\xfe\x80")
    assert "cannot be read" in refused("run", "--config", "sweep.yaml")
    assert "cannot be read" in refused("run", "--config", ".")


def test_settings_that_are_a_mapping_are_honoured(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    for text in (
        "methods: {tome: {around: mlp}, uniform: }",
        "methods: [tome: {around: mlp}, uniform]",
        "methods: [{name: tome, settings: {around: mlp}}, {name: uniform}]",
    ):
        path.write_text(text)
        found = build(read_yaml(path)).methods
        assert [(one.name, one.settings) for one in found] == [("tome", {"around": "mlp"}), ("uniform", {})], text


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("raising", "failed to make its cases: line"),
        ("few", "holds 1 cases; a sweep takes two"),
        ("numbers", "expected a tuple of Case objects"),
    ],
)
def test_tasks_that_fail(task: str, said: str, refused: Callable[..., str], tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad_tasks.py").write_text(TASK)
    try:
        line = refused(
            "run", "--task", task, "--plugin", "bad_tasks.py", "--model", str(tiny_folder), "--cases", "2",
            "--methods", "tome",
        )  # fmt: skip
    finally:
        for name in ("raising", "few", "numbers"):
            registry.tasks.forget(name)
        sys.modules.pop("harness_plugin_bad_tasks", None)
    assert said in line and task in line


def test_two_plugins_with_one_name(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "mine.py" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        path.write_text("import harness\n")
    try:
        for path in (*paths, *paths):
            load_plugin(path)
        assert [path for path in plugins() if path.name == "mine.py"] == paths
    finally:
        for name in ("harness_plugin_mine", "harness_plugin_mine_"):
            sys.modules.pop(name, None)


def test_a_fault_of_the_program_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from harness import runner

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "sweep_of", broken)
    for flags, told in (([], 1), (["--debug"], 2)):
        monkeypatch.setattr(sys, "argv", ["harness", *flags, "run"])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert caught.value.code == 1
        error = capsys.readouterr().err
        assert error.splitlines()[-1].startswith("internal error: ZeroDivisionError: a mistake of ours;")
        assert ("Traceback" in error) == (told == 2) and "please report" in error
