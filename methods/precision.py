"""Half precision for the denoiser alone: a setting orthogonal to what is computed, which any method composes with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.utils import _pytree as pytree

from harness.backbones.base import Backbone
from harness.errors import UserError
from harness.method import Method, MethodSettings
from harness.spec import State


class PrecisionSettings(MethodSettings):
    dtype: Literal["bfloat16", "float16"] = Field("bfloat16", description="of the denoiser's weights and activations")


class Precision(Method):
    """Weights and inputs of the denoiser in half precision; the sampler and the VAE keep theirs. It spares no FLOPs."""

    name = "precision"
    Settings = PrecisionSettings
    parts = frozenset()
    compresses = False
    attach_order = 2
    strength = ""
    source = "Micikevicius et al., 2018, Mixed Precision Training"

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        dtype = getattr(torch, self.settings.dtype)  # type: ignore[attr-defined]
        module = backbone.transformer
        if any(getattr(one, "_compiled_call_impl", None) is not None for one in module.modules()):
            raise UserError(
                "precision cannot run on a pipeline that is compiled, whose code is made for weights of one precision: "
                "leave compile() out, or load the pipeline with that precision"
            )
        before = next(module.parameters()).dtype

        def half(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            with torch.no_grad():
                time = backbone.timestep_of(args, kwargs)  # embedded in single precision; bfloat16 knows 812 and 816
                args, kwargs = _cast((args, kwargs), dtype, but=time)
                return _cast(forward(*args, **kwargs), before)

        held = [(tensor, tensor.data) for tensor in (*module.parameters(), *module.buffers())]
        try:
            for tensor, data in held:
                if data.is_floating_point():
                    tensor.data = data.to(dtype)
            with backbone.around(half):
                yield
        finally:
            for tensor, data in held:
                tensor.data = data


def _cast(values: Any, dtype: torch.dtype, but: object = None) -> Any:
    """Every floating-point tensor in a nest but one, in this precision."""
    return pytree.tree_map_only(Tensor, lambda x: x.to(dtype) if x.is_floating_point() and x is not but else x, values)
