"""What only a GPU can show."""

from __future__ import annotations

import importlib.util
import warnings

import pytest
import torch
from support import build, state_for
from torch import Tensor

from harness import modes
from harness.attach import attached
from harness.backbones.pixart import PixArt
from harness.compose import method_class
from harness.kernels import routing
from harness.measure.busy import busy
from harness.method import Method
from harness.spec import Call, State, Step
from methods.common.noise import SeededNoise
from methods.common.routing import Routed
from methods.common.routing_settings import Rescale

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
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


def test_a_capture_that_fails_says_what_failed_and_the_next_one_works() -> None:
    x, device = torch.ones(4, device="cuda"), torch.device("cuda", 0)
    with pytest.raises(modes.CapturedError, match=r"cannot be captured into a CUDA graph: .*captur") as raised:
        modes.capture(lambda: float((x + 1).sum()), device)
    assert "previous error" not in str(raised.value)
    assert torch.randn(4, device="cuda").isfinite().all()  # before any other capture
    first, out = modes.capture(lambda: x + 1, device)
    second, more = modes.capture(lambda: out * 2, device, first.pool())
    x.fill_(3)
    first.replay()
    second.replay()
    assert more.tolist() == [8] * 4
    held = torch.cuda.memory_reserved()
    torch.empty(2**28, device="cuda")
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= held


def test_noise_that_is_drawn_ahead_is_that_of_a_cpu(backbone: PixArt) -> None:
    given = backbone.inputs(2, text_tokens=8)
    found: dict[str, list[Tensor]] = {}
    for device in ("cpu", "cuda"):
        noise, seen = SeededNoise(0.5), found.setdefault(device, [])

        def block(call: Call, noise: SeededNoise = noise, seen: list[Tensor] = seen) -> Tensor:
            seen.append(noise(call).cpu().clone())
            return call.run(call.x)

        backbone.transformer.to(device)
        put = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in given.items()}
        with torch.no_grad(), noise.on(backbone), backbone.advise("block", block, [1]):
            for index in (0, 1, 2, 1):  # and back, where nothing was drawn for
                with backbone.at(Step(index, 4, 500.0)):
                    backbone.transformer(**put)
    assert len(found["cuda"]) == 4 and not torch.equal(found["cuda"][0], found["cuda"][1])
    for one, other in zip(found["cpu"], found["cuda"], strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
class TestFusedRouting:
    """The kernels of `harness.kernels.routing` against their plain forms."""

    @pytest.mark.parametrize("shape", [(1, 1, 1, 96), (1, 4096, 4095, 128), (2, 1000, 717, 1152), (32, 1024, 820, 96)])
    def test_kernels_equal_the_plain_forms(self, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
        batch, tokens, k, width = shape
        torch.manual_seed(0)
        x = torch.randn(batch, tokens, width, device="cuda").to(dtype)
        shift, scale, gate, *_ = torch.randn(batch, 6, width, device="cuda").to(dtype).chunk(6, dim=1)
        branch = torch.randn(batch, k, width, device="cuda").to(dtype)
        noise = torch.randn(batch, tokens, device="cuda")

        def sorted_(order: Tensor, factor: Tensor | None) -> tuple[Tensor, Tensor]:
            assert factor is not None
            index, back = order[:, :k].sort(dim=1)  # each form has an order of its own
            return index, factor.gather(1, back)

        with torch.no_grad():
            assert routing.usable(x)
            order, factor = routing.select(x[..., 0], k, noise, 2.0)
            rows, modulated = routing.take_modulated(x, order[:, :k], shift, scale, 1e-6)
            ours = [*sorted_(order, factor), rows, modulated]
            ours.append(routing.put_gated(x, order, rows, branch, gate, factor))
            with routing.using("plain"):
                plain = [*sorted_(*routing.select(x[..., 0], k, noise, 2.0))]
                real, *given = (one.float() for one in (x, shift, scale, rows, branch, gate, factor))  # type: ignore[union-attr]
                plain += routing.take_modulated(real, order[:, :k], *given[:2], 1e-6)
                plain.append(routing.put_gated(real, order, *given[2:]))
        for one, other in zip(ours, plain, strict=True):
            torch.testing.assert_close(one, other.to(one.dtype), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])

    @pytest.mark.parametrize("rescale", ["none", "mlp"])
    def test_a_fused_block_equals_a_plain_one(self, backbone: PixArt, rescale: Rescale, dtype: torch.dtype) -> None:
        """Of the first layer, which gets the same tokens in both forms: behind it, rounding may choose others."""
        backbone.transformer.to("cuda", dtype)
        given = backbone.inputs(2, text_tokens=8)
        weight = torch.randn(backbone.width, device="cuda")
        noise = torch.randn(2, backbone.grid_of((), given).tokens, device="cuda")
        routed = Routed(rescale, 1.0, noise=lambda call: noise[:, : call.x.shape[1]])
        found: list[Tensor] = []

        def seen(call: Call) -> Tensor:
            found.append(call.run(call.x))
            return found[-1]

        def block(call: Call) -> Tensor:
            assert (call.run_rows is None) == (mode == "plain")
            return routed.block(call, weight, call.x.shape[1] * 7 // 10)

        with torch.no_grad(), backbone.advise("block", seen, [0]), routed.on(backbone, block, [0]):
            for mode in ("auto", "plain"):
                with routing.using(mode), backbone.at(Step(1, 4, 500.0)):
                    backbone.transformer(**given)
        torch.testing.assert_close(*found, atol=TOLERANCE[dtype] * 4, rtol=TOLERANCE[dtype] * 4)

    def test_they_can_be_captured_in_a_graph(self, dtype: torch.dtype) -> None:
        x = torch.randn(2, 300, 128, device="cuda").to(dtype)
        part = torch.randn(2, 1, 128, device="cuda").to(dtype)

        def run() -> Tensor:
            order, _ = routing.select(x[..., 0], 200)
            rows, modulated = routing.take_modulated(x, order[:, :200], part, part, 1e-6)
            return routing.put_gated(x, order, rows, modulated, part)

        with torch.no_grad():
            run()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                out = run()
            x.copy_(torch.randn_like(x))
            graph.replay()
            assert torch.equal(out, run())
