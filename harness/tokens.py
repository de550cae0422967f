"""Tensor maths on tokens: pure functions, no modules, no state.

Letters: B batch, N tokens, K kept tokens, D width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def kept_count(ratio: float, tokens: int, rounding: str = "ceil") -> int:
    """How many tokens go through a layer at this compression ratio; at least 1, at most `tokens`.

    "ceil" is DiffCR's pseudocode, "floor" is MoD's. A hair is taken off before rounding, so that 0.9 * 10, which
    floating point holds as 9.000000000000002 or so, stays 9. Raises ValueError for a ratio outside [0, 1].
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"compression ratio must lie in [0, 1], got {ratio}")
    exact = (1 - ratio) * tokens
    count = math.ceil(exact - 1e-6) if rounding == "ceil" else math.floor(exact + 1e-6)
    return max(1, min(tokens, count))


def top_k(scores: Tensor, k: int) -> Tensor:
    """Indices (B, K) of the k highest scores (B, N), in spatial (ascending) order. Which of several equal scores stay
    in is up to the device."""
    return scores.topk(k, dim=1, sorted=False).indices.sort(dim=1).values


def take(x: Tensor, index: Tensor) -> Tensor:
    """The tokens (B, K, D) of x (B, N, D) at index (B, K)."""
    return x.flatten(0, 1).index_select(0, _rows(x, index)).view(*index.shape, x.shape[-1])


def scatter(x: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """A copy of x (B, N, D) with the tokens at index (B, K) replaced by values (B, K, D)."""
    return x.flatten(0, 1).index_copy(0, _rows(x, index), values.to(x.dtype).flatten(0, 1)).view(x.shape)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """index (B, K) into x.flatten(0, 1), (B K,). Whole rows move several times faster than elements by `gather`."""
    first = torch.arange(len(x), device=x.device)[:, None] * x.shape[1]
    return (index + first).flatten()


def mix(low: Tensor, high: Tensor, share: Tensor) -> Tensor:
    """(1 - share) * low + share * high; the gradient reaches `share` (a scalar)."""
    return torch.lerp(low, high, share.to(low.dtype))


def unpack(tokens: Tensor, patch: int, size: tuple[int, int]) -> Tensor:
    """Tokens (B, N, C p p) as latents (B, C, h, w) of this size (h, w)."""
    return F.fold(tokens.transpose(1, 2), size, patch, stride=patch)
