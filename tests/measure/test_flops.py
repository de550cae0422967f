"""Counting what is executed: patched models, methods' own work, repeated steps, failures."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.measure import flops, fvcore_counter
from harness.measure.torch_counter import check_attention, counting, matrix_like
from harness.patching import wrapped
from tests.measure import hand_formulas_pixart as analytic

LATENT, TEXT = 16, 12


def on_half(original: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Run a block on every second token and write the result back."""
    index = torch.arange(0, x.shape[1], 2)[None, :, None].expand(x.shape[0], -1, x.shape[2])  # (B, N/2, D)
    return x.scatter(1, index, original(x.gather(1, index), *args, **kwargs))  # (B, N, D)


def advised(block: nn.Module, around: Callable[..., Any]) -> AbstractContextManager[None]:
    return wrapped(block, "forward", around)


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + ("forward" in vars(m)) for m in model.modules())


def test_a_block_on_half_of_the_tokens(pixart: Any, generate: Any) -> None:
    with advised(pixart.transformer_blocks[1], on_half):
        counted = flops.count(pixart, lambda: generate(pixart), images=1)
    assert counted.gmacs == pytest.approx(2e-9 * analytic.pixart_macs(pixart.config, [64, 32, 64], TEXT, LATENT))
    norms = analytic.pixart_norm_macs(pixart.config, LATENT) * 6 / 7  # half of one of three blocks: 7 norms become 6
    linear = analytic.pixart_macs(pixart.config, [64, 32, 64], TEXT, LATENT, fused_attention=False)
    assert counted.gmacs_paper == pytest.approx(2e-9 * (linear + norms), rel=5e-3)
    assert counted.unknown == ()
    assert hooks(pixart) == 0


def test_a_trainable_router_outside_of_the_model_is_counted_in_both_columns(pixart: Any, generate: Any) -> None:
    router, weights = nn.Linear(32, 8), nn.Parameter(torch.randn(32))

    def routed(original: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        scores = router(x).sum(-1) + x @ weights  # (B, N)
        return original(x, *args, **kwargs) * scores.sigmoid()[..., None]

    dense = flops.count(pixart, lambda: generate(pixart), images=1)
    with advised(pixart.transformer_blocks[0], routed):
        counted = flops.count(pixart, lambda: generate(pixart), images=1)
    added = 2e-9 * 64 * 32 * 9
    assert counted.gmacs - dense.gmacs == pytest.approx(added)
    assert counted.gmacs_paper is not None and dense.gmacs_paper is not None
    assert counted.gmacs_paper - dense.gmacs_paper == pytest.approx(added)
    assert counted.unknown == ()
    assert router.weight.requires_grad and weights.requires_grad


def test_token_merging_is_counted_the_same_by_both(pixart: Any, generate: Any) -> None:
    from tomesd.merge import bipartite_soft_matching_random2d

    def merged(original: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        merge, unmerge = bipartite_soft_matching_random2d(x, 8, 8, 2, 2, 24, no_rand=True)
        return unmerge(original(merge(x), *args, **kwargs))

    with advised(pixart.transformer_blocks[2], merged):
        counted = flops.count(pixart, lambda: generate(pixart), images=1)
    similarity = 48 * 16 * 32  # 48 source against 16 destination tokens
    macs = analytic.pixart_macs(pixart.config, [64, 64, 40], TEXT, LATENT)
    assert counted.gmacs == pytest.approx(2e-9 * (macs + similarity))
    assert counted.by_operator["aten.bmm"] == pytest.approx(2e-9 * similarity)
    linear = analytic.pixart_macs(pixart.config, [64, 64, 40], TEXT, LATENT, fused_attention=False)
    norms = analytic.pixart_norm_macs(pixart.config, LATENT) * (5 + 2 * 40 / 64) / 7
    assert counted.gmacs_paper == pytest.approx(2e-9 * (linear + norms + similarity), rel=5e-3)
    assert counted.unknown == ()


def test_steps_that_differ_are_traced_once_each_and_averaged(
    pixart: Any, generate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, traces = 0, 0

    def early_only(original: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return on_half(original, x, *args, **kwargs) if step < 3 else original(x, *args, **kwargs)

    def advance(*_: object) -> None:
        nonlocal step
        step += 1

    def trace(*args: Any) -> Any:
        nonlocal traces
        traces += 1
        return fvcore_counter.trace(*args)

    def run() -> None:
        nonlocal step
        step = 0
        generate(pixart, steps=5)
        assert step == 5  # nothing was replayed

    monkeypatch.setattr(flops, "trace", trace)
    handle = pixart.register_forward_pre_hook(advance)
    with advised(pixart.transformer_blocks[0], early_only):
        counted = flops.count(pixart, run, images=2)
    handle.remove()
    half, full = (analytic.pixart_macs(pixart.config, [n, 64, 64], TEXT, LATENT) / 1e9 for n in (32, 64))
    assert counted.per_call == pytest.approx((half, half, full, full, full))
    assert counted.gmacs == pytest.approx((2 * half + 3 * full) / 5)
    assert sum(counted.by_operator.values()) == pytest.approx(counted.gmacs)
    assert (counted.calls, counted.images, traces) == (5, 2, 2)


def test_state_across_steps_is_not_disturbed(pixart: Any, generate: Any) -> None:
    """A cache that skips every second call of a block, and is reset before each generation."""
    cache: list[Tensor] = []

    def cached(original: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if cache:
            return cache.pop()
        cache.append(original(x, *args, **kwargs))
        return cache[0]

    def run() -> None:
        cache.clear()
        generate(pixart, steps=3)

    with advised(pixart.transformer_blocks[0], cached):
        counted = flops.count(pixart, run, images=1)
    dense = 2e-9 * analytic.pixart_macs(pixart.config, None, TEXT, LATENT)
    block = 2e-9 * analytic.block_macs(64, 32, TEXT).total
    assert counted.per_call == pytest.approx((dense, dense - block, dense))
    assert counted.gmacs_paper is not None
    assert counted.unknown == ()


def test_the_output_and_the_random_state_are_untouched(pixart: Any, generate: Any) -> None:
    outputs: list[Tensor] = []

    def noisy(original: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        outputs.append(original(x, *args, **kwargs) + torch.randn_like(x))
        return outputs[-1]

    before = torch.get_rng_state()
    with advised(pixart.transformer_blocks[2], noisy):
        flops.count(pixart, lambda: generate(pixart), images=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(outputs) == 4
    assert torch.equal(outputs[0], outputs[2]) and torch.equal(outputs[1], outputs[3])  # counted run, traced run


@pytest.mark.parametrize("run_that_fails", [1, 2])
def test_nothing_is_left_when_the_run_raises(pixart: Any, generate: Any, run_that_fails: int) -> None:
    runs = 0

    def broken(original: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if runs == run_that_fails:
            raise RuntimeError("out of luck")
        return original(x, *args, **kwargs)

    def run() -> None:
        nonlocal runs
        runs += 1
        generate(pixart)

    with advised(pixart.transformer_blocks[1], broken):
        if run_that_fails == 1:
            with pytest.raises(RuntimeError, match="out of luck"):
                flops.count(pixart, run, images=1)
        else:
            counted = flops.count(pixart, run, images=1)
            assert counted.gmacs > 0 and counted.gmacs_paper is None
            assert counted.unknown == ("gmacs_paper: RuntimeError: out of luck",)
    assert hooks(pixart) == 0


def test_a_run_that_does_other_work_the_second_time_is_found_out(pixart: Any, generate: Any) -> None:
    steps = iter((1, 2))
    counted = flops.count(pixart, lambda: generate(pixart, steps=next(steps)), images=1)
    assert counted.gmacs_paper is None
    assert "more than 1 times" in counted.unknown[0]

    batches = iter((2, 1))
    counted = flops.count(pixart, lambda: generate(pixart, batch=next(batches)), images=1)
    assert "were executed" in counted.unknown[0]


class Odd(nn.Module):
    """Work that counters do not know: a distance, a batched product with a bias, a Python autograd function."""

    def forward(self, x: Tensor) -> Tensor:  # (B, N, D)
        distance = torch.cdist(x, x)  # (B, N, N)
        return torch.baddbmm(x, distance, Twice.apply(x))


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return 2 * gradients[0]


def test_unknown_work_is_reported() -> None:
    odd = Odd()
    counted = flops.count(odd, lambda: odd(torch.randn(2, 6, 4)), images=1)
    assert counted.by_operator == {"aten.baddbmm": pytest.approx(2 * 6 * 6 * 4 / 1e9)}
    assert "gmacs: aten._cdist_forward" in counted.unknown
    assert {"gmacs_paper: aten::cdist", "gmacs_paper: aten::baddbmm"} <= set(counted.unknown)
    assert any("were executed" in line for line in counted.unknown)


def test_matrix_like_names() -> None:
    heavy = ["aten._cdist_forward", "aten::baddbmm", "aten._grouped_mm", "aten.ger", "aten._fft_r2c"]
    assert all(map(matrix_like, [*heavy, "mylib.kernel", "mylib::op", "prim::PythonOp.Twice"]))
    harmless = ["aten.add", "aten::gelu", "aten.comment", "aten.mvlgamma", "aten.linalg_vector_norm"]
    harmless += ["aten.upsample_bilinear2d", "aten._convert_indices", "prim::Constant"]
    assert not any(map(matrix_like, harmless))


def test_attention_and_vectors_on_the_cpu() -> None:
    check_attention()
    x, matrix, vector = torch.randn(2, 3, 5, 8), torch.randn(5, 8), torch.randn(8)
    with counting() as executed:
        torch.nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=torch.zeros(5, 5))
        matrix @ vector
        vector @ vector
    assert executed.total == 2 * (2 * 3 * 5 * 5 * 8) + 40 + 8
    with counting() as executed, torch.inference_mode():
        torch.nn.functional.scaled_dot_product_attention(x, x, x)
        torch.nn.functional.linear(x, torch.randn(7, 8))
    assert executed.total == 2 * (2 * 3 * 5 * 5 * 8) + 2 * 3 * 5 * 8 * 7


def test_wrong_use_is_told(pixart: Any) -> None:
    with pytest.raises(ValueError, match="never called"):
        flops.count(pixart, lambda: None, images=1)
    with pytest.raises(ValueError, match="at least 1"):
        flops.count(pixart, lambda: None, images=0)


def test_wrapping_keeps_the_signature_and_an_own_attribute(pixart: Any) -> None:
    block = pixart.transformer_blocks[0]
    signature = inspect.signature(block.forward)
    with wrapped(block, "forward", lambda original, *a, **k: original(*a, **k)):
        assert inspect.signature(block.forward) == signature
        outer = block.forward
        with wrapped(block, "forward", partial(on_half)):
            assert block.forward is not outer
        assert block.forward is outer
    assert "forward" not in vars(block)
    with pytest.raises(AttributeError), wrapped(block, "no_such_method", on_half):
        pass


def test_a_module_beside_is_counted_once_per_generation_and_leaves_the_rest_as_it_is(
    pixart: Any, generate: Any
) -> None:
    encoder = nn.Linear(24, 16)

    def run() -> None:
        encoder(torch.zeros(10, 24))
        generate(pixart)

    alone = flops.count(pixart, lambda: generate(pixart), images=2)
    counted = flops.count(pixart, run, images=2, beside={"encoder": encoder})
    assert counted.beside == {"encoder": pytest.approx(10 * 24 * 16 / 2 / 1e9)}
    assert (counted.gmacs, counted.gmacs_paper, counted.calls) == (alone.gmacs, alone.gmacs_paper, alone.calls)
    assert hooks(encoder) == 0
