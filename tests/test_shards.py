"""A sweep in parts, and its parts put together."""

import inspect
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command
from typer.testing import CliRunner

import harness
from harness.cli import app
from harness.errors import UserError
from harness.shards import Shard


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 7))
def test_every_point_is_in_one_part_beside_its_dense(sizes: list[int], of: int) -> None:
    workloads: Any = [[(place, point) for point in range(size)] for place, size in enumerate(sizes)]
    dealt = []
    for number in range(1, of + 1):
        for place, mine in enumerate(Shard(number, of).of_points(workloads)):
            assert not mine or mine[0] == (place, 0)  # dense first, and none alone where there are others
            assert len(mine) != 1 or sizes[place] == 1
            dealt += mine[1:]
    assert sorted(dealt) == [point for points in workloads for point in points[1:]]


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "a/b", "1/2/3", "-1/2", "1/9999999"])
def test_what_is_no_part(text: str) -> None:
    with pytest.raises(UserError, match="--shard expects NUMBER/OF"):
        Shard.parse(text)


def test_parts_are_not_tuned_to_latencies_of_their_own(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--shard would tune each part to latencies of its own: give --match gmacs"):
        harness.run("tome", model=str(tiny_folder), match="latency=0.8", shard="1/2", out=tmp_path / "run")


def test_three_parts_merged_are_the_whole(tiny_folder: Path, tmp_path: Path) -> None:
    asked = ["run", "--model", str(tiny_folder), "--methods", "tome,random", "--ratios", "0.3,0.5", "--cases", "2",
             "--steps", "3", "--rounds", "2", "--metrics", "alignment,paired", "--fresh"]  # fmt: skip
    parts = [tmp_path / "apart" / f"{number}" for number in (1, 2, 3)]
    for number, part in enumerate(parts, start=1):
        said = CliRunner().invoke(app, [*asked, "--shard", f"{number}/3", "--out", str(part)])
        assert said.exit_code == 0, said.output
    assert [len(harness.open_run(part).records) for part in parts] == [3, 2, 2]
    out = tmp_path / "merged"
    said = CliRunner().invoke(app, ["merge", *map(str, parts), "--out", str(out)])
    assert said.exit_code == 0 and "5 points of 3 runs" in said.stdout, said.output
    assert CliRunner().invoke(app, [*asked, "--out", str(tmp_path / "whole")]).exit_code == 0
    whole, merged = harness.open_run(tmp_path / "whole"), harness.open_run(out)

    def figures(run: Any) -> dict[str, Any]:
        names = ("alignment", "psnr_to_dense", "gmacs")
        return {
            r.key: [r.estimates[n].value for n in names if n in r.estimates] + [len(run.images(r))] for r in run.records
        }

    assert figures(merged) == figures(whole) and len(whole.records) == 5
    assert (out / "tables" / "verdict.md").is_file() and (out / "plots" / "images.png").is_file()
    again = CliRunner().invoke(app, [*asked, "--out", str(out)])  # nothing is left to do
    assert again.exit_code == 0 and "dense: ok" not in again.output
    other = CliRunner().invoke(app, ["merge", str(parts[0]), str(tmp_path / "absent"), "--out", str(tmp_path / "o")])
    assert other.exit_code == 2 and "no run folder at" in other.stderr


def test_other_workloads_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    for steps in (2, 3):
        harness.run("random", model=str(tiny_folder), ratios=[0.5], cases=2, steps=steps, rounds=2, metrics="alignment",
                    out=tmp_path / f"{steps}")  # fmt: skip
    said = CliRunner().invoke(app, ["merge", str(tmp_path / "2"), str(tmp_path / "3"), "--out", str(tmp_path / "o")])
    assert said.exit_code == 2 and "hold different workloads: steps: 2 and 3" in said.stderr
    assert not (tmp_path / "o" / "store.sqlite").exists()


def test_python_has_the_words_of_the_command(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = harness.run("tome,random", model=str(tiny_folder), ratios=[0.5], cases=2, steps=2, rounds=2, name="mine",
                      metrics="alignment,paired", shard="2/2", plots="all")  # fmt: skip
    assert [record.method for record in run.records] == ["dense", "random"]
    assert run.folder is not None and run.folder.name == "mine-2of2"  # each part in a folder of its own
    assert list((run.folder / "plots" / "more").glob("*.png"))
    for words, said in (({"shard": "3/2"}, "--shard expects"), ({"plots": "every"}, "plots: expected one of")):
        with pytest.raises(UserError, match=said):
            harness.run("tome", **words)
    python = set(inspect.signature(harness.run).parameters)
    renamed = {"task_setting", "mask_area", "binarize", "setting", "metric_setting", "config_file", "plugin"}
    asked = {parameter.name for parameter in get_command(app).commands["run"].params} - {"help"}
    assert asked - python - renamed == {"debug", "dry_run"}


def test_the_plan_of_a_part_is_its_own(tiny_folder: Path, tmp_path: Path) -> None:
    asked = ["run", "--model", str(tiny_folder), "--methods", "tome,random", "--ratios", "0.3,0.5", "--cases", "2",
             "--steps", "1", "--metrics", "alignment", "--shard", "2/3", "--dry-run", "--out",
             str(tmp_path)]  # fmt: skip
    said = CliRunner().invoke(app, asked)
    assert said.exit_code == 0 and "2 of 2 points to run" in said.stdout, said.output
