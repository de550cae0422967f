"""The two halves of a batch under classifier-free guidance: the unconditional samples first, then the conditional ones.

A tree is any nesting of containers that the denoiser takes or gives, with tensors (B, ...) and other things in it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from harness.errors import UserError


def first(tree: Any) -> Tensor:
    """The first tensor in a tree: the latents, among the arguments of a denoiser. Raises ValueError without one."""
    for leaf in pytree.tree_leaves(tree):
        if isinstance(leaf, Tensor):
            return leaf
    raise ValueError("the denoiser was called without a tensor")


def guided(declared: bool | None, latents: Tensor) -> bool:
    """Whether a batch (B, ...) holds both halves, as the pipeline says. Equal halves would be no sign of it: two images
    may start from one seed. Raises UserError where it says nothing."""
    if declared is None:
        raise UserError(
            "whether this pipeline's batches hold both halves of guidance is unknown: it has no property "
            "do_classifier_free_guidance, nor does it give that to its encode_prompt"
        )
    return declared and len(latents) % 2 == 0


def conditional(tree: Any, batch: int) -> Any:
    """The tree with the second half of every tensor that has `batch` samples."""

    def half(x: Tensor) -> Tensor:
        return x[batch // 2 :] if x.ndim and len(x) == batch else x

    return pytree.tree_map_only(Tensor, half, tree)


def mean(x: Tensor) -> Tensor:
    """(B, ...) -> (B / 2, ...): the mean of the halves."""
    return x.unflatten(0, (2, -1)).mean(0)


def twice(tree: Any) -> Any:
    """The tree with every tensor given as both halves."""
    return pytree.tree_map_only(Tensor, lambda x: torch.cat([x, x]), tree)
