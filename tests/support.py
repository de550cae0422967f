"""What several test files build."""

import torch

from harness import registry
from harness.backbones.base import Backbone
from harness.method import Method
from harness.spec import State


def state_for(method: Method, backbone: Backbone) -> State | None:
    """An adapter state without a fit: random routers, every ratio as asked for."""
    if not method.needs_state:
        return None
    generator = torch.Generator().manual_seed(1)
    ratio = method.ratio or 0.0
    tensors = {
        "router": torch.randn(backbone.layers, backbone.width, generator=generator),
        "ratios": torch.full((backbone.layers, 2), ratio),
        "importance": torch.rand(backbone.layers, 16, 16, generator=generator),
        "lora.transformer_blocks.0.attn1.to_q.A": torch.zeros(2, backbone.width),
        "lora.transformer_blocks.0.attn1.to_q.B": torch.zeros(backbone.width, 2),
    }
    return State(tensors, {"rescale": "mlp", "score_scale": 2.0, "steps": 4})


def build(name: str, ratio: float) -> Method:
    cls = registry.methods.get(name)
    return cls(cls.Settings.model_validate({"ratio": ratio} if "ratio" in cls.Settings.model_fields else {}))
