"""Bad input of every kind is one line and exit code 2, before anything is measured; some of it is honoured instead."""

import json
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import harness
from harness import cli, plan, registry
from harness.config import build, read_yaml
from harness.errors import UserError
from harness.models import load
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


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """The one line that a command ends with."""

    def run(*arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["harness", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), lines
        assert caught.value.code == 2
        return lines[0]

    return run


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


# -- model folders -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("model_index.json", "{", "is no JSON"),
        ("model_index.json", DEEP, "nested too deeply"),
        ("model_index.json", "[]", "holds no JSON object"),
        ("model_index.json", '{"transformer": 3}', "no backbone serves"),
        ("harness.json", "{", "is no JSON"),
        ("harness.json", "[]", "valid dictionary"),
        ("harness.json", '{"defaults": 3}', "defaults: "),
        ("harness.json", '{"defaults": {"steps": "many"}}', "defaults.steps: "),
        ("harness.json", '{"defaults": {"stepz": 3}}', "stepz"),
        ("harness.json", '{"call": []}', "call: "),
        ("harness.json", '{"call": {"negative_prompt": 3}}', "call.negative_prompt: "),
        ("harness.json", '{"call": {"prompt": "mine"}}', "prompt is given by the harness itself"),
        ("harness.json", '{"fit": 3}', "fit: "),
    ],
)
def test_damaged_facts_of_a_model(
    name: str, text: str, said: str, refused: Callable[..., str], tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(tiny_folder, folder)
    (folder / name).write_text(text)
    line = refused("run", "--model", "pipeline/", "--methods", "tome")
    assert said in line and ("pipeline" in line or "backbone" in line)


def test_labels_that_are_none(refused: Callable[..., str], tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(tiny_folder, folder)
    index = json.loads((folder / "model_index.json").read_text())
    for labels in ({"one": "cat"}, 3, ["cat"]):
        (folder / "model_index.json").write_text(json.dumps(index | {"id2label": labels}))
        assert "id2label" in refused("run", "--model", "pipeline/", "--methods", "tome")


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"facts": "{"}, "is damaged"),
        ({"facts": "[1]"}, "its facts are no names and values"),
        ({"facts": DEEP}, "is damaged"),
        ({"facts": '{"method": "diffcr", "settings": 3}'}, "adapter"),
        ({"facts": '{"method": "diffcr", "settings": {"ratio": "much"}}'}, "ratio: "),
    ],
)
def test_damaged_facts_of_an_adapter(
    metadata: dict[str, str], said: str, refused: Callable[..., str], tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "adapters").mkdir()
    save_file({"x": torch.zeros(1)}, tmp_path / "adapters" / "diffcr-20.safetensors", metadata=metadata)
    line = refused("run", "--model", str(tiny_folder), "--adapters", "adapters", "--methods", "diffcr@trajectory")
    assert said in line and "diffcr-20.safetensors" in line


def test_a_negative_prompt_in_the_call_is_what_guidance_leads_away_from(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(tiny_folder, folder)
    notes = json.loads((folder / "harness.json").read_text())
    images = []
    for words in (None, "", "a red circle"):
        notes["call"] |= {} if words is None else {"negative_prompt": words}
        (folder / "harness.json").write_text(json.dumps(notes))
        model = load(str(folder))
        (made,) = plan.make(build({"model": str(folder), "cases": 2, "methods": "dense", "metrics": "paired"}), model)
        images.append(made.opened.task.generate(made.opened.cases[:1]))
    own = model.pipeline(
        prompt=[made.opened.cases[0].prompt], negative_prompt="a red circle", num_inference_steps=4, guidance_scale=2.0,
        generator=[torch.Generator().manual_seed(0)], output_type="pt", **model.call,
    ).images  # fmt: skip
    assert torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])
    assert torch.allclose(images[2], own, atol=1e-4)


def test_precision_refuses_what_is_compiled(tiny_folder: Path) -> None:
    pipeline = load(str(tiny_folder)).pipeline
    pipeline.transformer.compile(backend="eager")
    with pytest.raises(UserError, match="precision cannot run on a pipeline that is compiled"):
        harness.apply(pipeline, "precision")


# -- tasks and plugins ---------------------------------------------------------------------------------------------


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


# -- folders that a command writes to ------------------------------------------------------------------------------


def commands(model: str) -> dict[str, list[str]]:
    return {
        "run": ["run", "--model", model, "--methods", "tome", "--cases", "2"],
        "profile": ["profile", "--device", "meta", "--methods", "tome", "--ratios", "0.2"],
        "attribute": ["attribute", "uniform", "--model", model, "--cases", "2"],
        "fit": ["fit", "sensitivity", "--model", model],
        "train": ["train", "shapes", "--set", "vae_steps=1"],
        "maps": ["maps", "--model", model, "--methods", "tome"],
        "published": ["published", "table1"],
    }


@pytest.mark.parametrize("command", ["run", "profile", "fit", "train", "maps", "published"])
def test_an_output_folder_that_is_a_file(
    command: str, refused: Callable[..., str], tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    out = "file/out.md" if command == "published" else "file"
    assert "file" in refused(*commands(str(tiny_folder))[command], "--out", out)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["tables", "plots", "images"])
def test_a_run_folder_with_a_file_where_a_folder_belongs(
    name: str, refused: Callable[..., str], tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("mine")
    assert f"run/{name}: a file is where a folder belongs" in refused(
        *commands(str(tiny_folder))["run"], "--out", "run"
    )


@pytest.mark.parametrize("name", ["log.jsonl", "store.sqlite"])
def test_a_run_folder_with_a_folder_where_a_file_belongs(
    name: str, refused: Callable[..., str], tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "run" / name).mkdir(parents=True)
    assert f"run/{name}: a folder is where" in refused(*commands(str(tiny_folder))["run"], "--out", "run")


def test_damaged_stores(refused: Callable[..., str], tiny_folder: Path, tmp_path: Path) -> None:
    command = [*commands(str(tiny_folder))["run"], "--out", "run"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "store.sqlite").write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 20)
    assert "store.sqlite" in refused(*command)
    shutil.rmtree(tmp_path / "run")

    from results import Store

    Store(tmp_path / "run" / "store.sqlite").close()
    for workload in ("{", DEEP, "[]", "3"):
        with sqlite3.connect(tmp_path / "run" / "store.sqlite") as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('workload', ?)", (workload,))
        assert "run folder run is damaged" in refused(*command)
    with sqlite3.connect(tmp_path / "run" / "store.sqlite") as db:
        db.execute("DELETE FROM meta")
        db.execute("INSERT INTO record VALUES ('0123456789', 'ok', '', '{}')")
    assert "the record 0123456789 cannot be read" in refused(*command)


@pytest.mark.parametrize("text", ["{", DEEP, "3", "[3]", '[{"method": 3}]'])
def test_a_damaged_search_for_budgets(
    text: str, refused: Callable[..., str], tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "matched.json").write_text(text)
    command = [*commands(str(tiny_folder))["run"], "--out", "run", "--match", "gmacs=0.8"]
    assert "matched.json" in refused(*command)


def test_a_fault_of_the_program_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from harness import api

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "sweep_of", broken)
    for flags, told in (([], 1), (["--debug"], 2)):
        monkeypatch.setattr(sys, "argv", ["harness", *flags, "run"])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert caught.value.code == 1
        error = capsys.readouterr().err
        assert error.splitlines()[-1].startswith("internal error: ZeroDivisionError: a mistake of ours;")
        assert ("Traceback" in error) == (told == 2) and "please report" in error
