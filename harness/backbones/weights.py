"""Whether a denoiser's weights can be changed by their names."""

from __future__ import annotations

from torch import nn

from harness.errors import UserError


def require_own_layers(transformer: nn.Module) -> None:
    """Raises UserError where the forward uses other weights than those that its linear layers have: fused projections,
    whose parts stay behind unused, and LoRA layers beside them."""
    for name, module in transformer.named_modules():
        if _fused(module):
            raise UserError(
                f"{name} has fused projections, so that the method's changes of to_q, to_k and to_v would have no "
                "effect; call unfuse_qkv_projections() first"
            )
        if hasattr(module, "lora_A"):
            raise UserError(
                f"{name} carries LoRA layers of somebody else, which the method's weights were not fitted with; unload "
                "them first, or save a pipeline with them merged and fit the method on that"
            )


def _fused(module: nn.Module) -> bool:
    """diffusers has two ways: a processor that reads the fused layers, and a flag."""
    if type(getattr(module, "processor", None)).__name__.startswith("Fused"):
        return True
    return hasattr(module, "unfuse_projections") and bool(getattr(module, "fused_projections", False))
