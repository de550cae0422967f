"""Fits and trainings keep what they made: full disks, changed data, several processes."""

from __future__ import annotations

import resource
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from harness import checkpoints
from harness.errors import UserError
from harness.fitting.options import FitOptions
from harness.fitting.request import Request
from harness.fitting.shards import Shards
from harness.training import loop
from harness.training.alone import alone
from results.plots.trajectories import trajectories


def test_a_full_disk_leaves_the_old_checkpoint_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    checkpoints.save(path, {"x": torch.zeros(4)}, {})
    kept, (soft, hard) = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError) as caught:
            checkpoints.save(path, {"x": torch.zeros(40_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno and caught.value.filename == str(path)  # which a command tells in one line
    assert path.read_bytes() == kept and [one.name for one in tmp_path.iterdir()] == [path.name]


def test_others_may_read_a_checkpoint_as_they_may_read_any_file(tmp_path: Path) -> None:
    (tmp_path / "any").touch()
    checkpoints.save(tmp_path / "one.safetensors", {"x": torch.zeros(4)}, {})
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("any", "one.safetensors")}
    assert len(modes) == 1


def test_damaged_latents_are_named(tmp_path: Path) -> None:
    shards = Shards(tmp_path, 2)
    shards.save(range(2), {"latents": torch.ones(2, 3)})
    (tmp_path / "000000.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(UserError, match=r"000000\.safetensors is damaged .*; delete it and make it again"):
        shards.rows([0])


def test_a_log_that_was_cut_short_does_not_break_a_finished_fit(tmp_path: Path) -> None:
    log = tmp_path / "diffcr-lt-20.csv"
    for text in ("", "step,seconds,ratio/0/0\n"):
        log.write_text(text)
        assert trajectories([log], tmp_path / "ratios.png", title="") is None
    log.write_text("step,seconds,loss\n0,1.0,2.0\n5,2.0,1.0\n1")  # killed as it wrote step 10
    with loop._Log(log, 10):
        pass
    assert log.read_text().splitlines() == ["step,seconds,loss", "0,1.0,2.0", "5,2.0,1.0"]


def test_what_no_process_used_stands_still() -> None:
    """Ratios that are frozen have no gradient; one of zero would let momentum move them."""
    module = nn.ParameterList([nn.Parameter(torch.zeros(2)) for _ in range(3)])
    module[0].grad = torch.ones(2)  # the third is used in the other process

    def reduce(mine: torch.Tensor, _how: str) -> torch.Tensor:
        other = torch.cat([torch.zeros(4), torch.full((2,), 3.0), torch.tensor([0.0, 0.0, 1.0])])
        return (mine + other) / 2

    loop._share_gradients(module, SimpleNamespace(num_processes=2, reduce=reduce))  # type: ignore[arg-type]
    assert module[0].grad.tolist() == [0.5, 0.5] and module[2].grad.tolist() == [1.5, 1.5]
    assert module[1].grad is None


def test_a_second_process_waits_for_the_folder(tmp_path: Path) -> None:
    script = "import sys, time; from pathlib import Path; from harness.training.alone import alone\n"
    script += "with alone(Path('work'), sys.argv[1]):\n    print(Path('made').exists(), flush=True)\n"
    script += (
        "    while sys.argv[1] == 'a' and not Path('go').exists():\n        time.sleep(0.01)\n    Path('made').touch()"
    )
    pipes: Any = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script, "a"], **pipes) as first:
        assert first.stdout is not None and first.stdout.readline() == b"False\n"
        second = subprocess.Popen([sys.executable, "-c", script, "b"], **pipes)
        assert second.stderr is not None and second.stdout is not None
        assert b"another process trains in work: b waits for it" in second.stderr.readline()
        (tmp_path / "go").touch()
        assert second.communicate()[0] == b"True\n"
    assert first.returncode == second.returncode == 0


def test_several_processes_of_a_launch_do_not_wait(tmp_path: Path) -> None:
    refused = pytest.raises(UserError, match="another process trains b in .*: start again")
    with alone(tmp_path, "a"), refused, alone(tmp_path, "b", wait=False):
        pass


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(6):
        Image.new("RGB", (64, 64), (40 * index, 0, 0)).save(folder / f"{index}.bmp")
        (folder / f"{index}.txt").write_text("a red square")
    return folder


def test_a_fit_is_made_anew_where_its_pictures_have_changed(
    tiny_folder: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def fit(out: str = "out", **values: Any) -> tuple[bytes, int]:
        options = FitOptions.model_validate({"steps": 6, "batch": 2, "lora_rank": 2, **values})
        path = Request("uniform", {}, (0.3,), options).run(str(tiny_folder), tmp_path / out, data=pictures)[0]
        fits = [one for one in (tmp_path / "results" / "runs" / "fits").iterdir() if one.name.startswith("uniform-")]
        return path.read_bytes(), len(fits)

    first, count = fit()
    assert count == 1 and fit(save_seconds=7) == (first, 1)  # how often it is saved is not what it is
    Image.new("RGB", (64, 64), (0, 0, 200)).save(pictures / "0.bmp")  # as many bytes
    with pytest.raises(UserError, match=r"holds another fit \(the data differ\): give another --out"):
        fit()
    changed, count = fit("other")
    assert count == 2 and changed != first and (tmp_path / "out" / "uniform-30.safetensors").read_bytes() == first
    moved = pictures.rename(tmp_path / "elsewhere")
    again = Request("uniform", {}, (0.3,), FitOptions.model_validate({"steps": 6, "batch": 2, "lora_rank": 2}))
    path = again.run(str(tiny_folder), tmp_path / "other", data=moved)[0]
    assert path.read_bytes() == changed
