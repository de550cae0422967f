"""The reference of routing: every block on all its tokens, those that bypass it masked out.

Letters: B batch (CFG halves included), N image tokens, K kept tokens, S text and image tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from families import RATIO, Family
from torch import Tensor, nn

from harness.backbones.base import Backbone
from harness.spec import State
from harness.tokens import scatter, take
from methods.uniform import Uniform


@contextmanager
def keys_alone(family: Family, _block: nn.Module, keep: Tensor) -> Iterator[None]:
    """Fused attention over image tokens, or over image and text, sees the kept image tokens (B, N) and all text."""
    every = keep if family.keys is None else family.keys(keep)  # (B, S)
    masks = {mask.shape[1]: mask for mask in (keep, every)}
    original = F.scaled_dot_product_attention

    def masked(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **rest: Any) -> Tensor:
        if key.shape[-2] in masks:
            assert attn_mask is None
            attn_mask = masks[key.shape[-2]][:, None, None, :]
        return original(query, key, value, attn_mask=attn_mask, **rest)

    F.scaled_dot_product_attention = masked  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = original


@contextmanager
def slow_routing(
    family: Family, backbone: Backbone, kept: Sequence[Tensor], router: Tensor, rescale: str
) -> Iterator[None]:
    """The reference: every block runs on all its tokens, those that bypass it are no keys of its attention, and
    afterwards they are put back as they came. kept: (B, K) per layer. router: (layers, D)."""
    with ExitStack() as stack:
        for layer, block in enumerate(backbone.blocks):
            running, came = ExitStack(), []
            split = "mlp" in backbone.parts_of(layer)

            def before(
                module: nn.Module, args: Any, kwargs: Any, layer: int = layer, running: Any = running, came: Any = came
            ) -> None:
                x = args[0] if args else kwargs["hidden_states"]
                came[:] = [x]
                keep = torch.zeros(x.shape[:2], dtype=torch.bool).scatter(1, kept[layer], True)
                running.enter_context((family.masked or keys_alone)(family, module, keep))

            def score(layer: int = layer, came: Any = came) -> Tensor:
                return 2 * (came[0] @ router[layer]).sigmoid()[..., None]

            def branch(_module: nn.Module, _args: Any, out: Tensor, score: Any = score) -> Tensor:
                if out.ndim == 4:  # (B, D, h, w)
                    return score().transpose(1, 2).unflatten(2, out.shape[2:]) * out
                return score() * out

            def after(
                _module: nn.Module, _args: Any, out: Any, layer: int = layer, running: Any = running, came: Any = came,
                score: Any = score, split: bool = split,
            ) -> Any:  # fmt: skip
                running.close()
                image, x = (out if family.image_at is None else out[family.image_at]), came[0]
                if rescale == "mlp" and not split:
                    image = x + score() * (image - x)
                image = scatter(x, kept[layer], take(image, kept[layer]))
                if family.image_at is None:
                    return image
                return tuple(image if i == family.image_at else one for i, one in enumerate(out))

            for hook in (
                block.register_forward_pre_hook(before, with_kwargs=True),
                block.register_forward_hook(after),
                *([backbone.module(layer, "mlp").register_forward_hook(branch)] if rescale == "mlp" and split else ()),
            ):
                stack.callback(hook.remove)
        yield


def routed(backbone: Backbone, rescale: str) -> tuple[Uniform, State]:
    generator = torch.Generator().manual_seed(1)
    router = torch.randn(backbone.layers, backbone.width, generator=generator)
    method = Uniform(Uniform.Settings.model_validate({"ratio": RATIO}))
    return method, State({"router": router}, {"rescale": rescale, "score_scale": 2.0})
