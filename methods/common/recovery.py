"""Tokens that a block did not run on get what the most similar ones got that it did run on (AT-EDM, Sec. 3.3; here with
updates in place of tokens).

Letters: B batch, N tokens, K kept tokens, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from harness.tokens import Rows, of_one_length, take, top_k

What = Literal["update", "token"]


def recovered(start: Tensor, out: Tensor, index: Tensor, what: What = "update", others: Tensor | None = None) -> Tensor:
    """Tokens (B, N, D) of which those at index (B, K) went on to `out` (B, N, D): each of the others gets what the kept
    one had that was most similar to it (cosine) at `start` (B, N, D): its update, or the token itself. others:
    (B, N - K) where these are known already."""
    left_out = start.shape[1] - index.shape[1]
    if not left_out:
        return out
    if others is None or others.shape[1] != left_out:
        pruned = torch.ones(start.shape[:2], dtype=torch.bool, device=start.device).scatter(1, index, False)
        others = top_k(pruned.float(), left_out)  # nonzero would wait for the device
    left, went = Rows.of(others, start.shape[1]), Rows.of(index, start.shape[1])
    own, kept = left.take(start), went.take(start)  # (B, N - K, D), (B, K, D)
    like = of_one_length(own) @ of_one_length(kept).transpose(1, 2)  # (B, N - K, K)
    nearest = like.argmax(-1)  # (B, N - K), places among the kept ones
    moved = went.take(out)  # (B, K, D)
    given = take(moved, nearest) if what == "token" else own + take(moved - kept, nearest)
    return left.put(out, given)
