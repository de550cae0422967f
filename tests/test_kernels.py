"""The fused kernels of routing: in Triton's interpreter, compiled for GPUs that are not here, and their absence."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from harness.backbones.pixart import PixArt
from harness.kernels import routing

HERE = Path(__file__).parent
TRITON = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")


@TRITON
@pytest.mark.slow
def test_interpreted_kernels_equal_the_plain_forms() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-x", str(HERE / "kernels_interpreted.py")],
        env={**os.environ, "TRITON_INTERPRET": "1"}, cwd=HERE.parent, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from harness.kernels import triton_routing as kernels

WHOLE = {"tokens", "kept", "width", "noise_stride", "order_stride", "shift_stride", "scale_stride",
         "gate_stride"}
REAL = {"eps", "factor_scale"}

def compiled(kernel, number, flags, ones=()):
    constant = {**flags, **{name: 1 for name in ones}}
    kind = {
        name: "constexpr" if name in constant else "i32" if name in WHOLE else "fp32" if name in REAL
        else "*i64" if name == "order" else "*fp32" if name == "noise" else f"*{number}"
        for name in kernel.arg_names
    }
    for capability in (80, 90):
        target = GPUTarget("cuda", capability, 32)
        out = triton.compile(ASTSource(kernel, kind, constant), target=target, options={"num_warps": 4})
        assert out.asm["cubin"]

counts = {"ROWS": kernels._ROWS, "COLUMNS": kernels._COLUMNS}
compiled(kernels.order_kernel, "bf16", {"NOISY": True, "FACTOR": True, **counts})
compiled(kernels.take_kernel, "bf16", {"BLOCK": 2048})
compiled(kernels.put_kernel, "bf16", {"BLOCK": 2048, "FACTOR": True})
compiled(kernels.order_kernel, "fp32", {"NOISY": False, "FACTOR": False, **counts}, ["tokens"])  # a 1 is a constant
compiled(kernels.put_kernel, "fp32", {"BLOCK": 128, "FACTOR": False}, ["width"])
"""


@TRITON
@pytest.mark.slow
def test_kernels_compile_for_gpus_that_are_not_here(tmp_path: Path) -> None:
    """Triton brings its assembler along; only running needs a driver."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], env={**env, "TRITON_CACHE_DIR": str(tmp_path)}, cwd=HERE.parent,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]


def test_a_cpu_keeps_the_plain_form_and_imports_no_triton() -> None:
    code = (
        "import sys, torch; from harness.kernels import routing; from harness.backbones import pixart\n"
        "with torch.no_grad():\n"
        "    x = torch.randn(2, 5, 8); part = torch.randn(2, 1, 8)\n"
        "    assert not routing.usable(x)\n"
        "    order, _ = routing.select(x[..., 0], 3)\n"
        "    rows, _ = routing.take_modulated(x, order, part, part, 1e-6)\n"
        "    routing.put_gated(x, order, rows, rows, part)\n"
        "assert 'harness.kernels.triton_routing' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_plain_forms() -> None:
    x, part = torch.randn(2, 6, 8), torch.randn(2, 1, 8)
    logits = torch.tensor([[1.0, 5, 2, 4, 3, 0], [0.0, 1, 2, 3, 4, 5]])
    order, factor = routing.select(logits, 2, noise=torch.tensor([[9.0, 0, 0, 0, 0, 0]] * 2), factor_scale=2.0)
    assert [set(row) for row in order.tolist()] == [{0, 1}, {0, 5}]
    assert factor is not None and torch.equal(factor, logits.gather(1, order).sigmoid() * 2)
    rows, modulated = routing.take_modulated(x, order, part, part, 1e-6)
    norm = torch.nn.LayerNorm(8, eps=1e-6, elementwise_affine=False)
    assert torch.equal(rows[1, 0], x[1, order[1, 0]])
    torch.testing.assert_close(modulated, norm(rows) * (1 + part) + part)
    out = routing.put_gated(x, order, rows, modulated, part, factor)
    left = sorted(set(range(6)) - {0, 5})
    assert torch.equal(out[1, left], x[1, left]) and out is not x
    torch.testing.assert_close(out[1, order[1]], rows[1] + part[1] * modulated[1] * factor[1, :, None])


@pytest.mark.parametrize(
    ("device", "present", "capability", "reason"),
    [
        ("mps", True, (0, 0), "none for mps"),
        ("cuda", False, (9, 0), "Triton is not installed"),
        ("cuda", True, (6, 1), "does not know"),
        ("cuda", True, (9, 0), ""),
    ],
)
def test_a_device_without_kernels_is_said_once(
    device: str, present: bool, capability: tuple[int, int], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if present else None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "old")
    routing._lacking.cache_clear()
    routing.say_once.cache_clear()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(2):
            assert (reason in routing._lacking(torch.device(device))) == bool(reason) or not reason
    assert [reason in str(one.message) for one in seen] == [True] * bool(reason)
    routing._lacking.cache_clear()
    routing.say_once.cache_clear()


def test_what_conventions_say_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert routing.note(torch.device("cpu")) == ""
    monkeypatch.setattr(routing, "_lacking", lambda device: "")
    device = torch.device("cuda", 0)
    assert "norms and sums fused" in routing.note(device) and routing.note(device, "graph") == routing.note(device)
    assert routing.note(device, "compile+graph") == ""
    monkeypatch.setattr(routing, "_lacking", lambda device: "Triton is not installed")
    assert routing.note(device) == ""


def test_a_block_that_somebody_changed_has_no_fused_form(backbone: PixArt) -> None:
    first, second, *_ = backbone.blocks
    assert backbone.run_rows(0, {}) is not None
    hook = first.norm1.register_forward_hook(lambda *_: None)  # which the fused form would not call
    assert backbone.run_rows(0, {}) is None
    hook.remove()
    assert backbone.run_rows(0, {}) is not None
    assert backbone.run_rows(0, {"cross_attention_kwargs": {"gligen": {}}}) is None
    second.set_chunk_feed_forward(2)
    assert backbone.run_rows(1, {}) is None


def test_the_interpreter_has_to_be_chosen_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"), routing.using("interpreter"):
        pass
