"""What people try in their first hour, and what it is told to them in one line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from typer.testing import CliRunner

import harness
from harness import checkpoints, registry
from harness.cli import app
from harness.errors import UserError
from harness.method import Method, MethodSettings, RatioSettings
from harness.models import load

FIT = ("--set", "steps=1", "--set", "batch=2", "--set", "scenes=64", "--set", "lora_rank=2")


def told(*arguments: str, code: int = 2) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output + str(result.exception)
    assert "Traceback" not in result.output and "internal error" not in result.output
    return " ".join(result.output.split())


def test_a_fits_ratio_is_a_setting_too(tiny_folder: Path, tmp_path: Path) -> None:
    arguments = ("fit", "random-ft", "--model", str(tiny_folder), "--out", str(tmp_path), *FIT)
    told(*arguments, "--set", "ratio=0.5", code=0)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["random-ft-50.safetensors"]
    assert "were both given" in told(*arguments, "--set", "ratio=0.5", "--ratio", "0.2")
    assert "ratio" in told(*arguments, "--set", "ratio=1.5")


def test_a_fit_takes_no_other_fits_place(tiny_folder: Path, tmp_path: Path) -> None:
    arguments = ("fit", "random-ft", "--model", str(tiny_folder), "--out", str(tmp_path), "--ratio", "0.2", *FIT)
    told(*arguments, code=0)
    path = tmp_path / "random-ft-20.safetensors"
    before = path.read_bytes()
    said = told(*arguments, "--set", "lr=0.01")
    assert "holds another fit (options of the fit differ): give another --out, or move it away" in said
    assert path.read_bytes() == before
    told(*arguments, code=0)  # the same one is finished


def test_a_fit_with_other_options_of_its_method_takes_no_place(tiny_folder: Path, tmp_path: Path) -> None:
    arguments = ("fit", "uniform", "--model", str(tiny_folder), "--out", str(tmp_path), "--ratio", "0.2", *FIT)
    told(*arguments, code=0)
    assert "(options of the method differ)" in told(*arguments, "--set", "router_lr=0.5")


def test_a_model_may_ask_for_the_loop_too(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    notes = json.loads((folder / "harness.json").read_text()) | {"fit": {"precision": "bfloat16", "lora_rank": 3}}
    (folder / "harness.json").write_text(json.dumps(notes))
    arguments = ("fit", "uniform", "--model", str(folder), "--out", str(tmp_path / "out"), "--ratio", "0.2")
    AcceleratorState._reset_state(True)  # one process has one precision
    try:
        told(*arguments, *FIT[:-2], code=0)
    finally:
        AcceleratorState._reset_state(True)
    fit = checkpoints.facts(tmp_path / "out" / "uniform-20.safetensors")["fit"]
    assert (fit["precision"], fit["lora_rank"], fit["steps"]) == ("bfloat16", 3, 1)
    notes["fit"] = {"stage": 0.1}
    (folder / "harness.json").write_text(json.dumps(notes))
    assert "unknown option of fits in harness.json 'stage'" in told(*arguments, *FIT)


def test_an_adapter_folder_that_is_not_there(tmp_path: Path) -> None:
    pipeline = load("shapes").pipeline
    with pytest.raises(UserError, match="adapter folder .*nowhere does not exist"):
        harness.apply(pipeline, "diffcr", ratio=0.2, adapter=tmp_path / "nowhere")
    with pytest.raises(UserError, match="expected a diffusers pipeline, got a str; load it first"):
        harness.apply("FOLDER", "tome", ratio=0.2)


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        ('{"defualts": {"steps": 2}}', "defualts"),
        ('{"judge": "shapes-juge"}', "judge"),
        ('{"features": "foo"}', "features"),
    ],
)
def test_a_typo_in_the_notes_of_a_model_is_no_default(tiny_folder: Path, tmp_path: Path, notes: str, said: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    (folder / "harness.json").write_text(notes)
    with pytest.raises(UserError, match=said):
        load(str(folder))


@pytest.mark.parametrize(
    ("asked", "said"), [('{"regoins": 3}', "did you mean 'regions'"), ('{"regions": "many"}', "regions")]
)
def test_what_a_model_asks_of_fits_is_checked(tiny_folder: Path, tmp_path: Path, asked: str, said: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    notes = json.loads((folder / "harness.json").read_text()) | {"fit": json.loads(asked)}
    (folder / "harness.json").write_text(json.dumps(notes))
    assert said in told("fit", "diffcr", "--model", str(folder), "--out", str(tmp_path / "out"), *FIT)


def test_a_plugin_that_exits_is_one_that_cannot_be_imported(tmp_path: Path) -> None:
    path = tmp_path / "exits.py"
    path.write_text("import sys\nsys.exit()\n")
    said = told("run", "--methods", "tome", "--plugin", str(path), "--quick")
    assert "cannot be imported: line 2: SystemExit" in said
    with pytest.raises(UserError, match="cannot be imported"):  # one file, as a text
        harness.run("tome", plugins=str(path), quick=True)


def test_a_method_without_a_ratio_has_no_strength_unless_it_names_one() -> None:
    class Plain(Method):
        Settings = MethodSettings

        def attach(self, backbone: Any, state: Any = None) -> Any: ...

    class Misspelt(Plain):
        strength = "treshold"

    class Ratio(Plain):
        Settings = RatioSettings

    class Without(Ratio):
        Settings = MethodSettings

    try:
        registry.methods.register("plain")(Plain)
        registry.methods.register("with-ratio")(Ratio)
        registry.methods.register("without")(Without)
        assert (Plain.strength, Ratio.strength, Without.strength) == ("", "ratio", "")
        with pytest.raises(UserError, match="its strength 'treshold' is none of its settings"):
            registry.methods.register("misspelt")(Misspelt)
    finally:
        for name in ("plain", "with-ratio", "without", "misspelt"):
            registry.methods.forget(name)


def test_cases_and_folders_that_are_none(tiny_folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "p.txt"
    prompts.write_text("a\nb\n")
    said = told("maps", "--model", str(tiny_folder), "--methods", "random", "--prompts", str(prompts), "--case", "5")
    assert "--case 5: there are 2 cases" in said
    with pytest.raises(UserError, match="--out is empty"):
        harness.run("tome", out="", quick=True)
    said = told("run", "--model", str(tiny_folder), "--methods", "dense", "--match", "gmacs=0.8")
    assert "there is none beside dense" in said


def test_a_signal_before_a_command_is_there_ends_in_a_line_at_most() -> None:
    code = (
        "import runpy, sys, harness.cli\n"
        "def stopped(): raise KeyboardInterrupt\n"
        "harness.cli.main = stopped\n"
        "sys.argv = ['harness']\n"
        "runpy.run_module('harness', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130 and "Traceback" not in done.stderr


METRIC = """
from harness.registry import metrics
from harness.metric import Column, Metric

@metrics.register("mine")
class Mine(Metric):
    columns = (Column("mine", "u", "lower", "c"),)

    @classmethod
    def applies(cls, model):
        {applies}

    def check(self):
        {check}

    def fingerprint(self):
        {fingerprint}

    def estimates(self, sample, dense):
        return {{}}
"""
SOUND = {"applies": "return True", "check": "pass", "fingerprint": "return {}"}


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"applies": "raise KeyError('x')"}, "line 11: KeyError"),
        ({"check": "import nothing_of_the_kind"}, "line 14: ModuleNotFoundError"),
        ({"fingerprint": "return {'x': 3}"}, "TypeError: fingerprint gave {'x': 3}; expected texts by name"),
    ],
    ids=["applies", "check", "fingerprint"],
)
def test_a_fault_in_a_metric_of_ones_own_names_it(
    tiny_folder: Path, tmp_path: Path, fault: dict[str, str], said: str
) -> None:
    path = tmp_path / "own_metric.py"
    path.write_text(METRIC.format(**SOUND | fault))
    asked = ("run", "--model", str(tiny_folder), "--methods", "dense", "--plugin", str(path), "--dry-run")
    try:
        shown = told(*asked, "--metrics", "mine")
        assert "metric 'mine' (" in shown and said in shown
        if "fingerprint" not in fault:
            told(*asked, code=0)  # nobody asked for it: it is left out
    finally:
        registry.metrics.forget("mine")
        for name in [name for name, one in sys.modules.items() if getattr(one, "__file__", None) == str(path)]:
            del sys.modules[name]
