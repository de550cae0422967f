"""A run ends with a verdict; `compare` and `recommend`: output, files, exit codes, and without torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import command as main

import harness
from harness.models import load
from results.recommend import apply_line

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "results" / "reference" / "default"


def test_a_run_ends_with_a_verdict(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = ("--model", str(tiny_folder), "--cases", "8", "--ratios", "0.2", "--rounds", "2", "--out", str(out))
    assert main(monkeypatch, "run", "--methods", "tome", *words) == 0
    printed = capsys.readouterr().out
    assert "verdict: truth[shapes-judge], lower is better, 8 images; margin 1 % of dense's" in printed
    assert "8 images show differences from" in printed and "tables/verdict.md" in printed
    kept = json.loads((out / "tables" / "verdict.json").read_text())
    (section,) = kept["sections"]
    (one,) = section["blocks"][0]["to_dense"]
    assert (one["method"], one["comparator"], one["n"]) == ("tome 20 %", "dense", 8)
    run = harness.open_run(out)
    assert one["difference"] == pytest.approx(run.compare("tome", "dense", "truth[shapes-judge]").value)
    assert one["word"] in (out / "tables" / "verdict.md").read_text()
    assert (out / "plots" / "verdict.png").stat().st_size > 5000

    assert main(monkeypatch, "recommend", str(out), "--max", "gmacs=0.95", "--min", "truth=-90%") == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "to use it" in line)
    pipeline = load(str(tiny_folder)).pipeline
    eval(line.partition(": ")[2], {"harness": harness, "pipeline": pipeline})  # the printed line is to be copied
    harness.remove(pipeline)
    assert apply_line(run.find("tome")) in line


def test_inpainting_has_a_verdict_for_each_mask_area(lazy_folder: Path, tmp_path: Path) -> None:
    run = harness.run(
        "tome", model=str(lazy_folder), task="inpainting", cases=8, rounds=2, ratios=[0.2],
        task_settings={"mask_area": [0.06, 0.25], "strategy": ["lazy"]}, out=tmp_path / "run",
    )  # fmt: skip
    sections = run.verdict().sections
    assert len(sections) == 2
    for section in sections:
        assert section.metric == "truth[shapes-judge]" and "square around the mask" in section.convention
        (one,) = (one for block in section.blocks for one in block.to_dense)
        assert (one.comparator, one.n) == ("dense", 8)
    assert [section.setup.rpartition(" · ")[2] for section in sections] == ["mask_area 0.06", "mask_area 0.25"]


def test_compare_prints_writes_and_gates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = f"{KEPT}:diffcr@0.3", f"{KEPT}:tome@0.3"
    files = ("--markdown", str(tmp_path / "c.md"), "--json", str(tmp_path / "c.json"))
    assert main(monkeypatch, "compare", *sides, *files, "--fail-if", "alignment<-1%") == 0
    printed = capsys.readouterr().out
    assert "diffcr 30 % against tome 30 %" in printed and (tmp_path / "c.md").read_text() == printed
    (condition,) = json.loads((tmp_path / "c.json").read_text())["points"][0]["conditions"]
    assert condition["state"] == "excluded"
    assert main(monkeypatch, "compare", *reversed(sides), "--fail-if", "alignment<-1%") == 3
    assert "**fails**" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("compare", str(KEPT), "nowhere"), "no run folder at nowhere"),
        (("compare", str(KEPT), str(KEPT.parent / "rivals_shapes")), "--force compares them all the same"),
        (("compare", f"{KEPT}:tome@0.3", f"{KEPT}:dense", "--fail-if", "alignment<1"), "has no unit"),
        (("recommend", str(KEPT), "--min", "alignment=-1"), "has no unit"),
    ],
)
def test_bad_input_is_one_line(
    words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(monkeypatch, *words) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1


def test_a_budget_that_nothing_meets_is_an_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(monkeypatch, "recommend", str(KEPT), "--max", "latency=0.3") == 4
    assert capsys.readouterr().out.startswith("nothing meets latency=0.3; closest: diffcr 30 %")


def test_no_torch_is_loaded() -> None:
    code = (
        "import sys; from harness import cli\n"
        f"sys.argv = ['harness', 'compare', '{KEPT}:tome@0.3', '{KEPT}:tome@0.2']\n"
        "cli.app(standalone_mode=False)\n"
        f"sys.argv = ['harness', 'recommend', '{KEPT}', '--max', 'latency=0.9']\n"
        "cli.app(standalone_mode=False)\n"
        "assert 'torch' not in sys.modules"
    )
    done: Any = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
