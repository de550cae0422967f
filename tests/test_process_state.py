"""What leftovers are found by: checksums, snapshots of modules, and the state of the process."""

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import harness
from harness.checksums import checksums
from harness.leftovers import Snapshot
from harness.models import Model
from harness.process_state import ProcessState


def test_a_pipeline_that_was_used_has_not_changed(model: Model) -> None:
    model.remember()
    with harness.applied(model.pipeline, "fbcache"), torch.no_grad():
        model.pipeline(
            "a red circle", num_inference_steps=2, output_type="pt", **model.call, generator=torch.Generator()
        )
    assert model.left_behind() == []
    with torch.no_grad():
        model.pipeline.vae.decoder.conv_out.bias[0] += 1
    assert model.left_behind() == ["changed weights (vae.decoder.conv_out.bias)"]
    assert model.left_behind() == []  # another pipeline, which nobody has looked at
    model.remember()
    assert model.left_behind() == []


def _swap(x: torch.Tensor) -> None:
    x[0], x[1] = x[1].clone(), x[0].clone()


def _flip(x: torch.Tensor) -> None:
    x[:2].neg_()  # an even number of sign bits


def _equally(x: torch.Tensor) -> None:
    x.mul_(2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.bool])
@pytest.mark.parametrize("change", [_swap, _flip, _equally])
def test_checksums_tell_every_change(change: Callable[[torch.Tensor], None], dtype: torch.dtype) -> None:
    x = torch.ones(70_001, dtype=dtype) if change is not _swap else torch.arange(70_001).remainder(2).to(dtype)
    before = checksums({"x": x, "empty": x[:0], "scalar": x[0], "turned": x.view(7, -1).T if len(x) % 7 == 0 else x})
    assert before["x"] == checksums({"x": x.clone()})["x"]
    if dtype is torch.bool:
        x[1] = ~x[1]
    else:
        change(x)
    assert before["x"] != checksums({"x": x})["x"] and before["empty"] == checksums({"empty": x[:0]})["empty"]


def test_what_diffusers_and_compilers_leave_is_told_apart() -> None:
    """An own `forward` that is the class's, bound, is none: diffusers leaves one behind where a cache was disabled."""
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout())
    before = Snapshot.of({"net": module})
    module[0].forward = module[0].forward
    assert before.changes({"net": module}) == []
    module[0].forward = copy.copy(module[1]).forward
    assert before.changes({"net": module}) == ["patched functions (net.0.forward)"]
    del module[0].forward
    module.eval()
    module[1] = nn.Identity()
    assert sorted(text.partition(" (")[0] for text in before.changes({"net": module})) == [
        "exchanged modules", "modules in training mode", "modules of another class"
    ]  # fmt: skip


CHANGES: dict[str, Callable[[], Any]] = {
    "whether gradients are taken": lambda: torch.set_grad_enabled(False),
    "torch's default device": lambda: torch.set_default_device("meta"),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True),
    "cuDNN's flags": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "float32 matmul precision": lambda: torch.set_float32_matmul_precision("medium"),
    "the fused attention's backends": lambda: torch.backends.cuda.enable_math_sdp(False),
    "hooks of all modules": lambda: nn.modules.module.register_module_forward_hook(lambda *_: None),
    "autocast": lambda: torch.set_autocast_enabled("cpu", True),
}


def test_the_process_is_restored() -> None:
    before = ProcessState.now()
    drawn = torch.rand(2), np.random.rand(), random.random()
    before.restore()
    for name, change in CHANGES.items():
        change()
        assert before.restore() == [name] and before.restore() == []
    assert torch.equal(torch.rand(2), drawn[0]) and (np.random.rand(), random.random()) == drawn[1:]


def test_a_folder_that_somebody_deleted_is_nobodys_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "gone"
    place.mkdir()
    monkeypatch.chdir(place)
    before = ProcessState.now()
    place.rmdir()
    assert before.restore() == [] and ProcessState.now().restore() == []
