"""LoRA (Hu et al., 2021): trained through peft, merged into the weights for inference.

An adapter state holds it as `lora.<module>.A` (r, in) and `lora.<module>.B` (out, r), in half precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from harness.backbones.base import Backbone
from harness.backbones.weights import require_own_layers
from harness.errors import unknown

_PREFIX = "lora."


def inject(backbone: Backbone, rank: int, seed: int = 0, targets: Sequence[str] = ()) -> list[nn.Parameter]:
    """Put trainable LoRA layers beside the blocks' linear layers and freeze everything else. Returns what trains.

    targets: ends of the names of the layers to adapt, none for all. Raises UserError for one that matches no layer.
    """
    from peft import LoraConfig, inject_adapter_in_model  # slow to import, and only fits need it

    known = backbone.linear_names()  # not every block needs to have them all
    for target in targets:
        if not any(_ends(name, target) for name in known):
            raise unknown("LoRA target", target, known)
    chosen = [name for name in known if not targets or any(_ends(name, target) for target in targets)]
    names = [
        f"{prefix}.{name}"
        for prefix, block in backbone.transformer.named_modules()
        if any(block is b for b in backbone.blocks)
        for name in chosen
        if name in dict(block.named_modules())
    ]
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=names, init_lora_weights=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, backbone.transformer)
    for name, parameter in backbone.transformer.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return [p for p in backbone.transformer.parameters() if p.requires_grad]


def _ends(name: str, target: str) -> bool:
    return f".{name}".endswith(f".{target}")


@contextmanager
def without(backbone: Backbone) -> Iterator[None]:
    """The model as it was before `inject`, for a dense teacher."""
    layers = [module for _, module in _adapted(backbone)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def tensors(backbone: Backbone) -> dict[str, Tensor]:
    """What `inject` trained, as state tensors."""
    out = {}
    for name, module in _adapted(backbone):
        out[f"{_PREFIX}{name}.A"] = module.lora_A["default"].weight.detach().half()
        out[f"{_PREFIX}{name}.B"] = module.lora_B["default"].weight.detach().half()
    return out


def _adapted(backbone: Backbone) -> list[tuple[str, Any]]:
    return [(name, module) for name, module in backbone.transformer.named_modules() if hasattr(module, "lora_A")]


@contextmanager
def merged(transformer: nn.Module, state: dict[str, Tensor]) -> Iterator[None]:
    """Weights W + B A inside the context; outside, the original tensors themselves. Raises UserError where the denoiser
    would not use them."""
    if any(key.startswith(_PREFIX) for key in state):
        require_own_layers(transformer)
    swapped: list[tuple[nn.Parameter, Tensor]] = []
    try:
        for key in state:
            if key.startswith(_PREFIX) and key.endswith(".A"):
                name = key.removeprefix(_PREFIX).removesuffix(".A")
                weight = transformer.get_submodule(name).weight
                assert isinstance(weight, nn.Parameter)
                down, up = state[key].to(weight.device), state[f"{_PREFIX}{name}.B"].to(weight.device)
                swapped.append((weight, weight.data))
                weight.data = (weight.data.float() + up.float() @ down.float()).to(weight.dtype)
        yield
    finally:
        for weight, original in swapped:
            weight.data = original
