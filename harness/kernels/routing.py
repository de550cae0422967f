"""The small operations around a routed block, fused: which tokens go through it, their way in, and their way back.

On a GPU a routed block's own operators (noise, top-k, gather, copy, scatter) and the first norm and last addition of
the block cost more in launches than in work. Here they are three launches: `select`, `take_modulated` and `put_gated`.
Each has a plain form, which runs wherever `usable` says no.

The product x . w of the router is left out on purpose. A program per image that scored its tokens itself would read N D
numbers through one multiprocessor, with all others idle at batch 2; as an operator of its own the product is spread
over the whole device, one launch more. It is torch's, so that the logits are those of the plain form bit for bit, and
the same tokens go through.

Letters: B batch, N tokens, K kept tokens, M = K or N, D width.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import layer_norm
from torch.utils._python_dispatch import _get_current_dispatch_mode

VERSION = 2
"""Raised when a kernel's results or speed change: figures from a GPU rest on it, see `fingerprint`."""

MOST_TOKENS = 4096
"""Longer rows are left to torch's top-k: the kernel compares each token with every other."""

Mode = Literal["auto", "plain", "interpreter"]

_TYPES = (torch.float32, torch.bfloat16, torch.float16)
_LEAST_CAPABILITY = (7, 0)  # of a CUDA device, by Triton
_mode: Mode = "auto"


@contextmanager
def using(mode: Mode) -> Iterator[None]:
    """Which form runs inside. auto: kernels where they can run (the default). plain: never. interpreter: on CPU tensors
    too, for tests; raises RuntimeError unless TRITON_INTERPRET=1 was set before Triton was imported."""
    global _mode
    if mode == "interpreter" and os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError("set TRITON_INTERPRET=1 before triton is imported")
    before, _mode = _mode, mode
    try:
        yield
    finally:
        _mode = before


def usable(x: Tensor) -> bool:
    """Whether the kernels can run on this tensor now: on a CUDA device with Triton, for inference. Under a compiler, a
    tracer or a counter of operators the plain form runs: the first fuses for itself, the others have to see what is
    done. Warns once where a device has no kernels."""
    kind = x.device.type
    if torch.compiler.is_compiling() or kind == "meta" or (kind == "cpu" and _mode != "interpreter"):
        return False
    if _mode == "plain" or torch.is_grad_enabled() or x.dtype not in _TYPES:
        return False
    if _observed() or (_mode == "auto" and _lacking(x.device)):
        return False
    return not torch.is_autocast_enabled(kind)


def fingerprint(device: torch.device) -> dict[str, str]:
    """What keys hold of the kernels: nothing on a CPU, where they change no figure."""
    if device.type in ("cpu", "meta"):
        return {}
    return {"kernels": "none" if _lacking(device) else str(VERSION)}


def note(device: torch.device, mode: str = "eager") -> str:
    """What a latency's convention says of them: outside of a compiler they fuse what dense's own blocks do not."""
    if "compile" in mode or fingerprint(device).get("kernels", "none") == "none":
        return ""
    return ", blocks on chosen tokens with norms and sums fused, dense's as its family has them"


def select(
    logits: Tensor, k: int, noise: Tensor | None = None, factor_scale: float | None = None
) -> tuple[Tensor, Tensor | None]:
    """The k tokens of each image with the highest logits (B, N) + noise (B, N), 1 <= k <= N.

    Returns order (B, M), whose first k are the chosen tokens in any order, followed by the others where M = N (whether
    they are is up to the form that runs). Of equal ones, any stay, k in all. factor: (B, K) factor_scale * sigmoid of
    the chosen logits, noise left out; None without a factor_scale.
    """
    if logits.shape[1] <= MOST_TOKENS and usable(logits):
        return _kernels().select(logits, k, noise, factor_scale)
    ranked = logits if noise is None else noise + logits
    order = ranked.topk(k, dim=1, sorted=False).indices
    if factor_scale is None:
        return order, None
    return order, logits.gather(1, order).sigmoid() * factor_scale


def take_modulated(x: Tensor, index: Tensor, shift: Tensor, scale: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The tokens (B, K, D) of x (B, N, D) at index (B, K), and the same behind a layer norm without factors of its own
    and behind a modulation with shift and scale (B, 1, D): norm(tokens) * (1 + scale) + shift."""
    if usable(x):
        return _kernels().take_modulated(x, index, shift, scale, eps)
    rows = x.take_along_dim(index[..., None], dim=1)
    return rows, layer_norm(rows, rows.shape[-1:], eps=eps) * (1 + scale) + shift


def put_gated(
    x: Tensor,
    order: Tensor,
    residual: Tensor,
    branch: Tensor,
    gate: Tensor,
    factor: Tensor | None = None,
) -> Tensor:
    """A copy of x (B, N, D) whose tokens at the first K of order (B, M) are residual + gate * branch * factor.

    residual, branch: (B, K, D). gate: (B, 1, D). factor: (B, K). With M = N, the order as `select` gives it, the copy
    needs no launch of its own: what is not replaced is copied by the same kernel.
    """
    if usable(x):
        return _kernels().put_gated(x, order, residual, branch, gate, factor)
    values = residual + gate * (branch if factor is None else branch * factor[..., None])
    index = order[:, : residual.shape[1]]
    if torch.compiler.is_compiling():  # a scatter would copy x first; this fuses with the products above
        kept, places = index.shape[1], torch.arange(index.shape[1], device=x.device).expand_as(index)
        place = torch.full(x.shape[:2], kept, device=x.device).scatter(1, index, places)[..., None]  # (B, N, 1)
        return torch.where(place < kept, values.take_along_dim(place.clamp(max=kept - 1), dim=1), x)
    return x.scatter(1, index[..., None].expand_as(values), values)


def _observed() -> bool:
    return torch.jit.is_tracing() or _get_current_dispatch_mode() is not None


@functools.lru_cache(maxsize=64)
def _lacking(device: torch.device) -> str:
    """Why a device has no kernels, which is said on the first look at it; "" where it has them."""
    reason = ""
    if device.type != "cuda":
        reason = f"there are none for {device.type}"
    elif importlib.util.find_spec("triton") is None:
        reason = "Triton is not installed"
    elif not torch.version.hip and torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
        reason = f"Triton does not know {torch.cuda.get_device_name(device)}"
    if reason:
        say_once(reason)
    return reason


@functools.cache
def say_once(reason: str) -> None:
    """Warn that tokens are routed without fused kernels, once per reason and process."""
    warnings.warn(f"tokens are routed operator by operator, without fused kernels: {reason}", stacklevel=2)


@functools.cache
def _kernels() -> Any:
    from harness.kernels import triton_routing

    return triton_routing
