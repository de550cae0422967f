"""Count the multiply-accumulates (MACs) of the operators that are really executed, with torch's own counter.

Letters: B batch, M N K sides of a matrix product, H heads, L queries, S keys, E head width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from math import prod
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

aten = torch.ops.aten
_FLOPS_PER_MAC = 2
_MATRIX_LIKE = re.compile(
    r"(?:mm|mv|dot|addr|ger)(?:$|_)|matmul|conv|attention|transformer|linear|einsum|cdist|fft|linalg|lstm|gru|rnn"
)
_HARMLESS = re.compile(r"upsample|vector_norm|convert")


def _mv(a: Any, v: Any, *_: Any, **__: Any) -> int:
    return _FLOPS_PER_MAC * prod(a)  # (N, K) @ (K,)


def _addmv(_bias: Any, a: Any, v: Any, *_: Any, **__: Any) -> int:
    return _mv(a, v)


def _mm(a: Any, b: Any, *_: Any, **__: Any) -> int:
    return _FLOPS_PER_MAC * prod(a) * b[-1]  # (M, K) @ (K, N)


def _addmm(_bias: Any, a: Any, b: Any, *_: Any, **__: Any) -> int:
    return _mm(a, b)


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)  # (B, H, L, E), (B, H, S, E), (B, H, S, E)


# Operators that torch's registry lacks. CPU attention is missing before torch 2.15 (pytorch issue 195460).
_FORMULAS = {
    aten.mv: _mv,
    aten.dot: _mv,
    aten.vdot: _mv,
    aten.addmv: _addmv,
    aten._int_mm: _mm,
    aten._addmm_activation: _addmm,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_fused_attention_overrideable: _attention,
}


_NORMS = {aten.native_layer_norm: 2, aten.native_group_norm: 1}  # where the factors stand among the arguments
_WEIGHTS = ("aten.addmm", "aten.mm", "aten.convolution")


def matrix_like(operator: str) -> bool:
    """Whether an operator's name ("aten.mv", "aten::baddbmm", "mylib.kernel") suggests matrix-product-like work.

    What is not torch's own (a custom kernel, a Python autograd function) could do anything, so it does.
    """
    namespace, _, name = re.sub(r"::|\.", " ", operator, count=1).partition(" ")
    if namespace == "prim":
        return name.startswith(("PythonOp", "CallFunction"))
    if namespace not in {"aten", "prims"}:
        return True
    return bool(_MATRIX_LIKE.search(name)) and not _HARMLESS.search(name)


@dataclass
class Executed:
    """What ran inside `counting`, filled when the context is left."""

    macs: dict[str, int] = field(default_factory=dict)
    """Operator -> MACs, for example {"aten.addmm": 4096}."""
    unknown: set[str] = field(default_factory=set)
    """Matrix-like operators that have no formula: their work is missing from `macs`."""
    trainable: dict[int, torch.Tensor] = field(default_factory=dict)
    """id -> leaf tensor that requires a gradient and was read, wherever it is kept."""
    fused: int = 0
    """Those MACs that lie inside scaled_dot_product_attention, whatever operators it was made of."""
    layers: int = 0
    """Those MACs that linear layers and convolutions make."""
    norms: dict[bool, int] = field(default_factory=dict)
    """Elements that layer and group norms were given, by whether they have factors of their own."""
    transposed: int = 0
    """Elements that torch.einsum only moved, with a single operand."""
    running_total: Callable[[], int] = lambda: 0
    """MACs up to now, while counting."""

    @property
    def total(self) -> int:
        """MACs of all operators."""
        return sum(self.macs.values())

    @property
    def paper(self) -> int:
        """fvcore's count: no products inside fused attention, but 4 operations per element of a norm, a fifth one for
        its factors, and half a one for what einsum moves."""
        norms = sum((5 if factors else 4) * many for factors, many in self.norms.items())
        return self.total - self.fused + norms + self.transposed // 2


class _Recorder(TorchDispatchMode):
    """Notes operators and trainable leaves. Entered before the counter, it sees what that decomposes operators into."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: set[str] = set()
        self.trainable: dict[int, torch.Tensor] = {}
        self.norms: dict[bool, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators.add(str(func).rpartition(".")[0] or str(func))
        for leaf in pytree.tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Tensor) and leaf.is_leaf and leaf.requires_grad:
                self.trainable[id(leaf)] = leaf
        if (place := _NORMS.get(func._overloadpacket)) is not None:
            factors = len(args) > place and args[place] is not None
            self.norms[factors] = self.norms.get(factors, 0) + args[0].numel()
        return func(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    """Adds up what is done inside fused attention, which on some devices is made of plain products, and what einsum
    only moves."""

    def __init__(self, running_total: Callable[[], int]) -> None:
        super().__init__()
        self.fused, self.transposed, self._running_total = 0, 0, running_total

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self._running_total() if func is scaled_dot_product_attention else 0
        out = func(*args, **(kwargs or {}))
        if func is scaled_dot_product_attention:
            self.fused += self._running_total() - before
        elif func is torch.einsum and len(args) == 2 and isinstance(args[1], torch.Tensor):
            self.transposed += args[1].numel()
        return out


@contextmanager
def _count() -> Iterator[Executed]:
    result, recorder = Executed(), _Recorder()
    counter = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
    result.running_total = lambda: counter.get_total_flops() // _FLOPS_PER_MAC
    functions = _Functions(result.running_total)
    with recorder, counter, functions:
        yield result
    result.running_total = lambda: 0
    result.fused, result.transposed, result.norms = functions.fused, functions.transposed, recorder.norms
    result.macs = {str(k): v // _FLOPS_PER_MAC for k, v in counter.get_flop_counts().get("Global", {}).items()}
    result.layers = sum(result.macs.get(name, 0) for name in _WEIGHTS)
    known = {str(operator) for operator in counter.flop_registry}
    result.unknown = {name for name in recorder.operators - known if matrix_like(name)}
    result.trainable = recorder.trainable


@cache
def check_attention() -> None:
    """Raise RuntimeError where this torch does not count attention on the CPU. Looked at once per process."""
    query, key = torch.zeros(1, 2, 3, 8), torch.zeros(1, 2, 5, 8)
    with torch.no_grad(), _count() as executed:
        torch.nn.functional.scaled_dot_product_attention(query, key, key)
    expected = 2 * (2 * 3 * 5 * 8)
    if executed.total != expected:
        found = f"torch {torch.__version__} counts {executed.total} MACs for an attention of {expected}"
        raise RuntimeError(f"{found}: its FLOP counts would be wrong, install another version")


@contextmanager
def counting() -> Iterator[Executed]:
    """Count everything executed inside, on any device, meta included; the result is filled on leaving."""
    check_attention()
    with _count() as executed:
        yield executed
