"""Costs of methods whose work depends on the image, and the weights that a pruned model still holds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import harness
from harness import attach, cost
from harness.compose import method_class
from harness.measure import flops, memory
from harness.method import Method
from harness.models import Model
from harness.spec import State
from methods.caching.fbcache import FBCache
from methods.dense import Dense
from methods.depth import Depth
from methods.width import Width
from tasks.text_to_image import TextToImage

STEPS = 4


def subject(model: Model, count: int = 4) -> cost.Subject:
    task = TextToImage(model, steps=STEPS, guidance=2.0)
    cases = tuple(task.cases(count))
    task.prepare(cases)
    return cost.Subject(model, task, cases)


def alone(on: cost.Subject, method: Method, row: int) -> float:
    """GMACs per step of one case, by the counter that every other method is counted with."""
    with attach.running(on.model, method, None, guided=on.task.guided):
        count = flops.count(
            on.model.backbone.transformer, lambda: on.task.generate(on.cases[row : row + 1]), images=1, steps=STEPS
        )
    return count.gmacs


def parting(on: cost.Subject) -> FBCache:
    """A threshold at which the images take different numbers of steps."""
    for threshold in np.geomspace(0.01, 0.9, 25):
        method = FBCache(FBCache.Settings(threshold=float(threshold)))
        if len(set(cost.looked_at(on, method, None).spent)) > 1:
            return method
    pytest.fail("no threshold tells these images apart")


def test_an_adaptive_method_is_costed_on_every_image(model: Model, small: dict[str, object], tmp_path: Path) -> None:
    on = subject(model)
    method = parting(on)
    asked = {**small, "cases": 4, "batch": 4, "metrics": ["paired"]}
    given = {"name": "fbcache", "settings": method.settings.model_dump()}
    (_, record) = harness.run([given], out=tmp_path / "run", **asked).records
    found = record.estimates["gmacs"]
    assert len(found.values) == found.n == 4 and len(set(found.values)) > 1
    assert found.values == pytest.approx([alone(on, method, row) for row in range(4)])
    assert found.value == pytest.approx(np.mean(found.values))
    assert found.low is not None and found.high is not None and found.low < found.value < found.high
    assert "one at a time" in found.convention and "throughput_images_s" not in record.estimates
    one_by_one = harness.run([given], out=tmp_path / "again", **{**asked, "batch": 1}).records[1]
    for left, right in zip(record.images, one_by_one.images, strict=True):
        assert (tmp_path / "run" / left).read_bytes() == (tmp_path / "again" / right).read_bytes()


def test_latency_is_that_of_the_image_nearest_to_the_mean(model: Model) -> None:
    on = cost.Subject(model, subject(model).task, subject(model).cases, spent=(1.0, 5.0, 3.5, 2.0))
    assert on.typical[0] is on.cases[2]  # the mean is 2.875
    assert subject(model).typical[1] == ""


def test_compositions_are_adaptive_where_a_part_is() -> None:
    assert method_class("tome+fbcache").adaptive and not method_class("tome+magcache").adaptive


def weights(on: cost.Subject, method: Method, state: State | None) -> float:
    """MiB that the record says, less the peak of the pass."""
    found, _ = cost.measured(on, method, state, Dense(), 1, lambda _what, _images: None)
    with attach.running(on.model, method, state, guided=on.task.guided):
        peak = memory.peak(lambda: on.task.generate((on.typical[0],)), on.model.device)
    return found["peak_memory_mb"].value * 2**20 - peak.bytes


def test_pruned_weights_are_not_held(model: Model) -> None:
    on = subject(model, 1)
    whole = memory.weights_bytes(model.modules)
    block = memory.weights_bytes([model.backbone.blocks[0]])
    assert weights(on, Dense(), None) == pytest.approx(whole, abs=block / 4)
    order = State({"order": torch.tensor([1, 0, 2])})
    assert weights(on, Depth(Depth.Settings(ratio=0.3)), order) == pytest.approx(whole - block, abs=block / 4)
    width = Width(Width.Settings(ratio=0.5))
    narrow = weights(on, width, width.dummy_state(model.backbone))
    assert whole - 3 * block < narrow < whole - block  # half of the heads and channels of three blocks
    assert memory.weights_bytes(model.modules) == whole


def test_idle_modules_are_those_that_never_ran() -> None:
    used, unused = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))
    with memory.idle([used, unused]) as idle:
        used(torch.zeros(1, 2))
        assert idle == []
    assert idle == [unused] and not used[0]._forward_pre_hooks
