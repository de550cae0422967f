"""The command line as a user meets it: exit codes, errors in one line, kills."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from support import command as main

from harness import cli, registry
from results import Store

BROKEN = """
import torch
import harness
from harness.method import Method, RatioSettings
from contextlib import contextmanager

def make(name, advice):
    class Broken(Method):
        Settings = RatioSettings
        @contextmanager
        def attach(self, backbone, state=None):
            with backbone.advise("block", advice):
                yield
    harness.methods.register(name)(Broken)

def boom(call):
    raise RuntimeError("the block is on fire")

make("raises", boom)
make("not-a-number", lambda call: call.x * float("nan"))
make("misshaped", lambda call: call.run(call.x)[:, ::2])
make("idle", lambda call: call.run(call.x))
make("free-lunch", lambda call: call.run(call.x) * 1.01)
"""


def argv(small: dict[str, object], *more: str) -> list[str]:
    shared = ["--model", str(small["model"]), "--cases", "2", "--rounds", "2", "--metrics", "paired"]
    return ["run", *shared, "--ratios", "0.2", *more]


def test_what_goes_wrong_is_a_record_and_the_sweep_goes_on(
    small: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = tmp_path / "broken.py"
    plugin.write_text(BROKEN)
    out = tmp_path / "run"
    names = ["raises", "not-a-number", "misshaped", "idle", "free-lunch"]
    try:
        code = main(
            monkeypatch,
            *argv(small, "--methods", ",".join([*names, "tome"]), "--plugin", str(plugin), "--out", str(out)),
        )
    finally:
        for name in names:
            registry.methods.forget(name)
        sys.modules.pop("harness_plugin_broken", None)
    assert code == 1
    frame = pd.read_csv(out / "tables" / "results.csv").set_index("method")
    assert frame.loc["tome", "outcome"] == "ok"
    reasons = frame.loc[names, "reason"].to_dict()
    assert "the block is on fire" in reasons["raises"]
    assert "NaN" in reasons["not-a-number"]
    assert "shape" in reasons["misshaped"]
    assert "changed nothing" in reasons["idle"]
    assert "changed no cost" in reasons["free-lunch"]
    assert frame.loc[names, "gmacs"].isna().all()
    assert "on fire" in capsys.readouterr().err


def test_killed_in_the_middle_it_goes_on_from_there(small: dict[str, object], tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "harness", *argv(small, "--methods", "tome", "--out", str(out))]
    command += ["--ratios", "0.1,0.2,0.3,0.4"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    done = 0
    while time.monotonic() < deadline and process.poll() is None and not done:
        time.sleep(0.1)
        log = out / "log.jsonl"
        done = len(log.read_text().splitlines()) if log.exists() else 0
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with Store(out / "store.sqlite") as store:
        before = {record.key: record.started for record in store.records()}
    assert 0 < len(before) < 5
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    with Store(out / "store.sqlite") as store:
        records = store.records()
    assert len(records) == 5 and all(record.outcome == "ok" for record in records)
    assert {r.key: r.started for r in records if r.key in before} == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--methods", "difcr"], "unknown method 'difcr': did you mean 'diffcr'"),
        (["run", "--task", "text-to-imag"], "did you mean 'text-to-image'"),
        (["run", "--model", "shape"], "did you mean 'shapes'"),
        (["run", "--metrics", "fud"], "did you mean 'fid'"),
        (["run", "--methods", "tome+uniform"], "tome+uniform cannot work together: both choose the tokens"),
        (["run", "--methods", "tome+unifrom"], "did you mean 'uniform'"),
        (["run", "--methods", "tgate", "--set", "tgate.gated=1.5"], "Input should be less than or equal to 0.95"),
        (["run", "--methods", "fbcache", "--steps", "1"], "'fbcache' needs at least 2 sampling steps"),
        (["run", "--match", "latency"], "needs both an axis and budgets"),
        (["run", "--match", "joules=0.8"], "match: "),
        (["run", "--methods", "tome", "--match", "gmacs=0.8", "--dry-run"], "before the budgets are matched"),
        (["run", "--model", "emoji", "--methods", "uniform,width-ft"], "no adapters 'uniform-10', 'width-ft-10'"),
        (["run", "--model", "emoji", "--methods", "uniform", "--fit"], "brings no training data, so that --fit cannot"),
        (["run", "--ratios", "1.4"], "must lie in [0, 0.9], got 1.4"),
        (["run", "--ratios", "a"], "ratios: expects numbers separated by commas, got 'a'"),
        (["run", "--device", "cuda"], "no CUDA device"),
        (["run", "--dtype", "float23"], "did you mean 'float32'"),
        (["run", "--config", "/nowhere.yaml"], "cannot be read"),
        (["run", "--plugin", "/nowhere.py"], "does not exist"),
        (["run", "--set", "tome.aroun=mlp"], "did you mean 'around'"),
        (["run", "--set", "uniform.ratio=0.2"], "with a method of this sweep"),
        (["run", "--model", "/nowhere/at/all"], "does not exist"),
        (["fit", "difcr"], "did you mean 'diffcr'"),
        (["fit", "diffcr", "--ratio", "2"], "--ratio must lie in (0, 0.9]"),
        (["fit", "diffcr", "--set", "stepz=3"], "did you mean 'steps'"),
        (["fit", "diffcr", "--data", "self"], "give --prompts FILE, one prompt per line"),
        (["fit", "diffcr", "--data", "self", "--prompts", "absent.txt"], "absent.txt cannot be read"),
        (["fit", "diffcr", "--prompts", "mine.txt"], "--prompts is for --data self"),
        (["train", "shape"], "did you mean 'shapes'"),
        (["train", "shapes", "--from", "."], "train shapes takes no --from"),
        (["train", "emoji"], "give --data FOLDER; `python -m harness data emoji FOLDER` builds it"),
        (["train", "emoji", "--data", "absent"], "absent holds no pictures.bin"),
        (["data", "emojis", "out"], "did you mean 'emoji'"),
        (["list", "method"], "did you mean 'methods'"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if torch.cuda.is_available() and "cuda" in arguments:
        pytest.skip("this machine has one")
    monkeypatch.chdir(tmp_path)
    assert main(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("error: ") and said in error[0]
    assert not list(tmp_path.iterdir())  # nothing was written


def test_a_folder_that_is_no_pipeline(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(monkeypatch, "run", "--model", str(tmp_path)) == 2
    assert "holds no model_index.json" in capsys.readouterr().err


def test_damaged_weights(
    small: dict[str, object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(str(small["model"]), folder)
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"\x00" * 100)
    assert main(monkeypatch, "run", "--model", str(folder), "--methods", "tome") == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and str(folder) in error[0]


def test_a_sweep_of_emoji_says_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    examples, file = Path(__file__).parent.parent / "examples", tmp_path / "more.yaml"
    lacking = "  - random-ft\n  - static\n"
    file.write_text((examples / "table1_emoji.yaml").read_text() + lacking)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(monkeypatch, "run", "--config", str(file), "--dry-run") == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert "'random-ft', 'static': no fitted adapters" in error  # all others are shipped
    monkeypatch.setattr(sys, "argv", ["harness", "run", "--config", str(file), "--fit", "--dry-run"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code
    said = " ".join(capsys.readouterr().out.split())
    assert "to fit: random-ft-20: python -m harness fit random-ft --model emoji --ratio 0.2 --data FOLDER" in said
    assert "to fit: static: python -m harness fit static --model emoji" in said
    assert "dense-ft" not in said and not list(Path().iterdir())


def test_dry_run_writes_nothing(
    small: dict[str, object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["harness", *argv(small, "--methods", "tome", "--dry-run")])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code
    assert "2 of 2 points to run, 2 cases each" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
