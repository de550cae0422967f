"""Count one call of a module as the papers do: with fvcore, on a jit trace, without the products of fused attention."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from harness.measure.torch_counter import matrix_like

_TRACER = "fvcore.nn.jit_analysis"
_ATTENTION = "attention"
_PRODUCTS = ("linear", "addmm", "mm", "matmul", "bmm", "einsum", "conv", _ATTENTION)


@dataclass(frozen=True)
class Traced:
    """One call under fvcore's trace, in MACs."""

    output: Any
    macs: float
    """fvcore's own total: fused attention left out, normalisation included."""
    products: float
    """Matrix products only, those of fused attention included: the same thing as torch's counter counts."""
    unknown: frozenset[str]
    """Matrix-like operators that fvcore has no rule for."""


class _Flat(nn.Module):
    """A call as a module from tensors to tensors, which is what jit can trace; everything else is closed over."""

    def __init__(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> None:
        super().__init__()
        self.module = module  # its parameters must be the trace's inputs: jit refuses trainable constants
        self._forward = forward
        self._leaves, self._spec = pytree.tree_flatten((args, kwargs))
        self.outputs: list[Any] = []

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(leaf for leaf in self._leaves if isinstance(leaf, Tensor))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = iter(tensors)
        leaves = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in self._leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        self.outputs.append(self._forward(*args, **kwargs))
        return tuple(leaf for leaf in pytree.tree_leaves(self.outputs[-1]) if isinstance(leaf, Tensor))


def trace(
    module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any, trainable: Iterable[Tensor] = ()
) -> Traced:
    """Run `forward(*args, **kwargs)`, the forward of `module`, exactly once, under fvcore's trace.

    `args` and `kwargs` may hold nested containers, None, numbers and strings. `trainable` names leaf tensors that the
    call reads; those outside `module` (an adapter of a method) are frozen meanwhile. Raises what the call or the
    tracer raises, and leaves no hook behind. No dispatch mode may be active: under one, jit drops convolutions.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit", category=FutureWarning)
        from fvcore.nn import FlopCountAnalysis

        flat = _Flat(module, forward, args, kwargs)
        own = {id(parameter) for parameter in module.parameters()}
        analysis = FlopCountAnalysis(flat, flat.tensors)
        analysis.set_op_handle("aten::scaled_dot_product_attention", _attention, "aten::matmul", _matmul)
        # What fvcore does not support comes back as `unknown`; elementwise operators would only fill the log.
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        with _frozen(tensor for tensor in trainable if id(tensor) not in own), _no_hooks_left(flat):
            by_operator = analysis.by_operator()
    return Traced(
        output=flat.outputs[0],
        macs=float(sum(by_operator.values()) - by_operator[_ATTENTION]),
        products=float(sum(by_operator[name] for name in _PRODUCTS)),
        unknown=frozenset(name for name in analysis.unsupported_ops() if matrix_like(name)),
    )


def _attention(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """fvcore skips fused attention: counted under a name of its own, so that it can be left out, or compared."""
    from fvcore.nn.jit_handles import get_shape

    query, key, value = (get_shape(tensor) for tensor in inputs[:3])  # (..., L, E), (..., S, E), (..., S, V)
    return Counter({_ATTENTION: prod(query[:-1]) * key[-2] * (query[-1] + value[-1])})


def _matmul(inputs: list[Any], outputs: list[Any]) -> float:
    """fvcore's rule for matmul, which fails on vectors: there every element of the other operand is used once."""
    from fvcore.nn.jit_handles import get_shape, matmul_flop_jit

    shapes = [get_shape(value) for value in inputs]
    if min(map(len, shapes)) == 1:
        return prod(max(shapes, key=prod))
    return matmul_flop_jit(inputs, outputs)


@contextmanager
def _frozen(tensors: Iterable[Tensor]) -> Iterator[None]:
    held = list(tensors)
    try:
        for tensor in held:
            tensor.requires_grad_(False)
        yield
    finally:
        for tensor in held:
            tensor.requires_grad_(True)


@contextmanager
def _no_hooks_left(module: nn.Module) -> Iterator[None]:
    """fvcore forgets its hooks where the trace raises."""
    try:
        yield
    finally:
        for part in module.modules():
            for hooks in (part._forward_pre_hooks, part._forward_hooks):
                for key in [key for key, hook in hooks.items() if type(hook).__module__ == _TRACER]:
                    del hooks[key]
