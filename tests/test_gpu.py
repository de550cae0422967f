"""What only a GPU can show."""

from __future__ import annotations

import warnings

import pytest
import torch
from support import build, state_for

from harness.attach import attached
from harness.backbones.pixart import PixArt
from harness.compose import method_class
from harness.measure.busy import busy
from harness.method import Method
from harness.spec import State, Step

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("name", ["uniform", "diffcr", "sensitivity", "random-ft"])
@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_a_routed_step_waits_for_the_device_no_more_often_than_a_dense_one(
    backbone: PixArt, name: str, temperature: float
) -> None:
    backbone.transformer.cuda()
    given = backbone.inputs(2, text_tokens=8)

    def waits(method: Method, state: State | None) -> int:
        with torch.no_grad(), attached(backbone, method, state):
            with backbone.at(Step(1, 4, 500.0)):
                backbone.transformer(**given)  # the first call may load kernels, and noise looks at the latents once
            with warnings.catch_warnings(record=True) as seen, backbone.at(Step(2, 4, 400.0)):
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")  # which itself warns that it is a prototype
                try:
                    backbone.transformer(**given)
                finally:
                    torch.cuda.set_sync_debug_mode("default")
        return sum("called a synchronizing" in str(one.message) for one in seen)

    cls = method_class(name)
    noisy = {"temperature": temperature} if "temperature" in cls.Settings.model_fields else {}
    routed = cls(cls.Settings.model_validate({"ratio": 0.3, **noisy}))
    assert waits(routed, state_for(routed, backbone)) == waits(build("dense", 0.0), None)


def test_the_device_is_busy_with_large_products_and_idle_between_small_ones() -> None:
    large, small = torch.randn(8192, 8192, device="cuda"), torch.randn(8, 8, device="cuda")

    def many() -> None:
        for _ in range(300):
            small @ small

    device = torch.device("cuda")
    assert (busy(lambda: [large @ large for _ in range(8)], device) or 0) > 0.75
    assert (busy(many, device) or 1) < 0.75
