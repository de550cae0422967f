"""The kernels of `harness.kernels.routing`, in Triton. Imported on first use alone: Triton is no dependency.

What changes from layer to layer is not specialised on: a new number of kept tokens must compile nothing in a timed run.

Letters: B batch, N tokens, K kept tokens, D width.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_LEAST_BLOCK = 128
_ROWS, _COLUMNS = 16, 128  # tokens that a program places, and those that it compares with at a time


@triton.jit
def _sortable(rank: tl.tensor) -> tl.tensor:
    """Integers in the order of the floats."""
    bits = rank.to(tl.uint32, bitcast=True)
    return tl.where(bits >= 0x80000000, bits ^ 0xFFFFFFFF, bits | 0x80000000)


@triton.jit(do_not_specialize=["kept", "noise_stride"])
def order_kernel(
    logits: tl.tensor,
    noise: tl.tensor,
    order: tl.tensor,
    factor: tl.tensor,
    tokens: tl.tensor,
    kept: tl.tensor,
    noise_stride: tl.tensor,
    factor_scale: tl.tensor,
    NOISY: tl.constexpr,
    FACTOR: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Some tokens of one image per program: each counts the tokens that come before it, which is its place. That is
    more work than a sort and less time, since all of the device takes part and nothing waits."""
    image = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = at < tokens
    logit = tl.load(logits + image * tokens + at, mask=inside, other=0.0).to(tl.float32)
    rank = logit
    if NOISY:
        rank += tl.load(noise + image * noise_stride + at, mask=inside, other=0.0)
    key = _sortable(rank)
    before = tl.zeros((ROWS, COLUMNS), tl.int32)
    for start in range(0, tokens, COLUMNS):
        other = start + tl.arange(0, COLUMNS)
        there = other < tokens
        ranked = tl.load(logits + image * tokens + other, mask=there, other=0.0).to(tl.float32)
        if NOISY:
            ranked += tl.load(noise + image * noise_stride + other, mask=there, other=0.0)
        against = tl.where(there, _sortable(ranked), tl.zeros_like(_sortable(ranked)))  # 0 is below every number
        earlier = other[None, :] < at[:, None]  # of equal ones, the first goes first
        ahead = (against[None, :] > key[:, None]) | ((against[None, :] == key[:, None]) & earlier)
        before += ahead.to(tl.int32)
    place = tl.sum(before, 1)
    tl.store(order + image * tokens + place, at.to(tl.int64), mask=inside)
    if FACTOR:
        tl.store(factor + image * kept + place, tl.sigmoid(logit) * factor_scale, mask=inside & (place < kept))


@triton.jit(do_not_specialize=["tokens", "kept", "order_stride"])
def take_kernel(
    x: tl.tensor,
    order: tl.tensor,
    shift: tl.tensor,
    scale: tl.tensor,
    rows: tl.tensor,
    modulated: tl.tensor,
    tokens: tl.tensor,
    kept: tl.tensor,
    width: tl.tensor,
    order_stride: tl.tensor,
    shift_stride: tl.tensor,
    scale_stride: tl.tensor,
    eps: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """One kept token of one image per program."""
    place, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    row = image * kept + place
    source = image * tokens + tl.load(order + image * order_stride + place)
    at = tl.arange(0, BLOCK)
    inside = at < width
    token = tl.load(x + source * width + at, mask=inside, other=0.0)
    tl.store(rows + row * width + at, token, mask=inside)
    value = token.to(tl.float32)
    mean = tl.sum(value, 0) / width
    centred = tl.where(inside, value - mean, 0.0)
    variance = tl.sum(centred * centred, 0) / width
    more = tl.load(scale + image * scale_stride + at, mask=inside, other=0.0).to(tl.float32)
    add = tl.load(shift + image * shift_stride + at, mask=inside, other=0.0).to(tl.float32)
    out = centred * tl.rsqrt(variance + eps) * (1.0 + more) + add
    tl.store(modulated + row * width + at, out, mask=inside)


@triton.jit(do_not_specialize=["tokens", "kept", "order_stride"])
def put_kernel(
    x: tl.tensor,
    order: tl.tensor,
    residual: tl.tensor,
    branch: tl.tensor,
    gate: tl.tensor,
    factor: tl.tensor,
    out: tl.tensor,
    tokens: tl.tensor,
    kept: tl.tensor,
    width: tl.tensor,
    order_stride: tl.tensor,
    gate_stride: tl.tensor,
    FACTOR: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One token of one image per program: the first `kept` of an image are computed, the others copied."""
    place, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    target = (image * tokens + tl.load(order + image * order_stride + place)) * width
    at = tl.arange(0, BLOCK)
    inside = at < width
    if place < kept:
        row = image * kept + place
        value = tl.load(branch + row * width + at, mask=inside, other=0.0).to(tl.float32)
        if FACTOR:
            value *= tl.load(factor + row).to(tl.float32)
        value *= tl.load(gate + image * gate_stride + at, mask=inside, other=0.0).to(tl.float32)
        value += tl.load(residual + row * width + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + target + at, value, mask=inside)
    else:
        tl.store(out + target + at, tl.load(x + target + at, mask=inside, other=0.0), mask=inside)


def select(logits: Tensor, k: int, noise: Tensor | None, factor_scale: float | None) -> tuple[Tensor, Tensor | None]:
    batch, tokens = logits.shape
    logits = logits.contiguous()
    if noise is not None and noise.stride(1) != 1:
        noise = noise.contiguous()
    order = torch.empty(batch, tokens, dtype=torch.int64, device=logits.device)
    factor = None if factor_scale is None else logits.new_empty(batch, k)
    with torch.cuda.device_of(logits):
        order_kernel[(triton.cdiv(tokens, _ROWS), batch)](
            logits,
            logits if noise is None else noise,
            order,
            order if factor is None else factor,
            tokens,
            k,
            0 if noise is None else noise.stride(0),
            factor_scale or 0.0,
            NOISY=noise is not None,
            FACTOR=factor is not None,
            ROWS=_ROWS,
            COLUMNS=_COLUMNS,
            num_warps=4,
        )
    return order, factor


def take_modulated(x: Tensor, index: Tensor, shift: Tensor, scale: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    x, shift, scale, index = x.contiguous(), _dense_rows(shift), _dense_rows(scale), _dense_rows(index)
    batch, tokens, width = x.shape
    kept = index.shape[1]
    rows, modulated = x.new_empty(batch, kept, width), x.new_empty(batch, kept, width)
    block = _block(width)
    with torch.cuda.device_of(x):
        take_kernel[(kept, batch)](
            x,
            index,
            shift,
            scale,
            rows,
            modulated,
            tokens,
            kept,
            width,
            index.stride(0),
            shift.stride(0),
            scale.stride(0),
            eps,
            BLOCK=block,
            num_warps=_warps(block),
        )
    return rows, modulated


def put_gated(
    x: Tensor, order: Tensor, residual: Tensor, branch: Tensor, gate: Tensor, factor: Tensor | None
) -> Tensor:
    x, residual, branch = x.contiguous(), residual.contiguous(), branch.contiguous()
    gate, order = _dense_rows(gate), _dense_rows(order)
    batch, tokens, width = x.shape
    kept = residual.shape[1]
    if order.shape[1] == tokens:
        out, columns = torch.empty_like(x), tokens
    else:
        out, columns = x.clone(), kept
    block = _block(width)
    with torch.cuda.device_of(x):
        put_kernel[(columns, batch)](
            x,
            order,
            residual,
            branch,
            gate,
            branch if factor is None else factor.contiguous(),
            out,
            tokens,
            kept,
            width,
            order.stride(0),
            gate.stride(0),
            FACTOR=factor is not None,
            BLOCK=block,
            num_warps=_warps(block),
        )
    return out


def _dense_rows(tensor: Tensor) -> Tensor:
    """Each row's elements side by side; rows may lie apart, as views of a larger tensor do."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _block(length: int) -> int:
    return max(_LEAST_BLOCK, triton.next_power_of_2(length))


def _warps(block: int) -> int:
    """So many that a thread has 16 elements."""
    return max(1, min(16, block // 512))
