"""Outputs are drawn again whenever any of them is missing, whatever stopped the process that drew them."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from results import Record, outputs
from results.files import part_of
from results.run_folder import RunFolder

FULL = """
import resource, sys
from results import outputs
from results.run_folder import RunFolder
with RunFolder.open(sys.argv[1]) as folder:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # as a disk that is full after so much
    outputs.write(folder)
"""


@pytest.fixture
def run(sweep: list[Record], tmp_path: Path) -> Path:
    with RunFolder.grow(tmp_path / "run", {"kind": "images"}) as folder:
        for record in sweep:
            folder.put(record)
    return tmp_path / "run"


def drawn(run: Path) -> bool:
    with RunFolder.open(run) as folder:
        return outputs.drawn(folder)


def draw(run: Path) -> None:
    with RunFolder.open(run) as folder:
        outputs.write(folder)


def test_any_file_that_is_missing_is_drawn_again(run: Path) -> None:
    assert not drawn(run)
    draw(run)
    assert drawn(run)
    files = [path for place in ("tables", "plots") for path in (run / place).rglob("*") if path.is_file()]
    assert len(files) > 6
    for path in files:
        held = path.read_bytes()
        path.unlink()
        assert not drawn(run), path
        path.write_bytes(held)
    assert drawn(run)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"files": 3}', '{"files": [3]}', '{"files": []}'])
def test_a_damaged_mark_counts_as_none(run: Path, text: str) -> None:
    draw(run)
    (run / "tables" / "drawn.json").write_text(text)
    assert not drawn(run)


def test_another_search_for_budgets_draws_again(run: Path) -> None:
    draw(run)
    (run / "matched.json").write_text(json.dumps([]))
    assert not drawn(run)


def test_a_full_disk_leaves_no_mark_and_nothing_half_written(run: Path) -> None:
    full = subprocess.run([sys.executable, "-c", FULL, str(run)], capture_output=True, text=True)
    assert full.returncode == 1 and "OSError" in full.stderr
    assert (run / "tables" / "results.csv").is_file() and not drawn(run)
    assert not list(run.rglob("*.part"))
    draw(run)
    assert drawn(run)


def test_what_a_kill_left_is_tidied_when_the_run_goes_on(run: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    mine = part_of(run / "plots" / "mine.png")
    theirs = mine.with_name(mine.name.replace(f".{os.getpid()}.", f".{gone.stdout.strip()}."))
    mine.parent.mkdir()
    for part in (mine, theirs):
        part.write_bytes(b"half")
    log = run / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:3]) + lines[3][:20])
    with RunFolder.grow(run, {"kind": "images"}):
        pass
    assert mine.exists() and not theirs.exists()
    now = [json.loads(line)["key"] for line in log.read_text().splitlines()]
    assert sorted(now) == sorted(json.loads(line)["key"] for line in lines)


def test_two_writers_of_one_image(run: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (6, 64, 64, 3), dtype=np.uint8)
    with RunFolder.open(run) as folder, ThreadPoolExecutor(4) as pool:
        names = list(pool.map(lambda _: folder.save_images(images, "5a5a"), range(12)))
        read = np.stack([np.asarray(Image.open(run / name)) for name in names[0]])
    assert (read == images).all() and not list(run.rglob("*.part"))


@pytest.mark.parametrize(
    "path", ["../../a.png", "/etc/passwd", "images/../../a.png", "C:\\a.png", "..\\a.png", "a\0.png"]
)
def test_a_record_names_nothing_outside_of_its_folder(record, path: str) -> None:
    for fields in (
        {"images": [path]}, {"shown": {"masks": [path]}}, {"features": {"judge": path}},
        {"references": {"judge": path}}, {"token_maps": path}, {"sample_key": path},
    ):  # fmt: skip
        with pytest.raises(ValidationError, match="lies outside of the run folder"):
            record("dense", **fields)


def test_the_headline_is_drawn_and_the_rest_on_request(tmp_path, judged, estimate):
    rng = np.random.default_rng(0)
    with RunFolder.grow(tmp_path, {}) as folder:
        for method, ratio in (("dense", None), ("m", 0.2)):
            costs = {name: estimate(1.0 - (ratio or 0), unit="u", role="cost") for name in ("gmacs", "latency_ratio")}
            more = {"alignment": estimate(0.9, better="higher", role="quality", n=16, values=tuple(rng.random(16)))}
            folder.put(judged(method, ratio, rng.random(16) + 1, estimates=costs | more))
        outputs.write(folder)
        names = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "plots").rglob("pareto_*.png")}
        assert {name.partition("_vs_")[2] for name in names} == {"truth-judge.png"} and len(names) == 2
        assert outputs.drawn(folder) and not outputs.drawn(folder, all_plots=True)
        outputs.write(folder, all_plots=True)
        assert (tmp_path / "plots" / "more" / "pareto_gmacs_vs_alignment.png").is_file()
        assert outputs.drawn(folder) and outputs.drawn(folder, all_plots=True)
        outputs.write(folder)  # what is not drawn again would show old records
        assert not list((tmp_path / "plots" / "more").glob("*"))
