"""Tensor maths on tokens: pure functions, no modules, no state.

Letters: B batch, N tokens, K kept tokens, D width.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.kernels import routing
from harness.spec import Call, RunRows


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
    """Indices (B, K) of the k highest scores (B, N), in no particular order: no family's blocks ask for one, and a sort
    per layer is a tenth of a step on a GPU. Which of several equal scores stay in is up to the device."""
    return choose(scores, k)[:, :k]


def choose(scores: Tensor, k: int) -> Tensor:
    """The same, (B, M): where M = N, the other tokens follow, at no cost, for those who put something into their
    place."""
    return routing.select(scores, k)[0]


@dataclass(frozen=True)
class Rows:
    """A choice of tokens as rows of x.flatten(0, 1): whole rows move several times faster than elements by `gather`,
    and are found once for taking and for putting back.

    flat: (B K,). shape: (B, K).
    """

    flat: Tensor
    shape: torch.Size

    @classmethod
    def of(cls, index: Tensor, tokens: int) -> Rows:
        """index (B, K) into `tokens` tokens of each image."""
        if len(index) == 1:
            return cls(index.flatten(), index.shape)
        return cls((index + starts(len(index), tokens, index.device)).flatten(), index.shape)

    def take(self, x: Tensor) -> Tensor:
        """Their tokens (B, K, D) of x (B, N, D)."""
        return x.flatten(0, 1).index_select(0, self.flat).view(*self.shape, x.shape[-1])

    def put(self, x: Tensor, values: Tensor) -> Tensor:
        """A copy of x (B, N, D) with these tokens replaced by values (B, K, D)."""
        return x.flatten(0, 1).index_copy(0, self.flat, values.to(x.dtype).flatten(0, 1)).view(x.shape)


def take(x: Tensor, index: Tensor) -> Tensor:
    """The tokens (B, K, D) of x (B, N, D) at index (B, K)."""
    return Rows.of(index, x.shape[1]).take(x)


def scatter(x: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """A copy of x (B, N, D) with the tokens at index (B, K) replaced by values (B, K, D)."""
    return Rows.of(index, x.shape[1]).put(x, values)


def run_on(index: Tensor, call: Call, k: int | None = None) -> Tensor:
    """A block or another part on the tokens at index (B, K) alone; the others leave it as they came, (B, N, D). k: how
    many of the tokens at index, which `choose` gave, all by default."""
    k = index.shape[1] if k is None else k
    if (run_rows := fused(call)) is not None:
        return run_rows(call.x, index, k)
    index = index[:, :k]
    rows = Rows.of(index, call.x.shape[1])
    return rows.put(call.x, call.run(rows.take(call.x), index))


def fused(call: Call) -> RunRows | None:
    """The fused form of a block on some of its tokens; None where it has to run operator by operator. Warns once where
    only the model's family or other methods are in the way."""
    if call.run_rows is None and call.part == "block" and routing.usable(call.x):
        routing.say_once("this model's blocks have no fused form, or another method changes them")
    return call.run_rows


def starts(batch: int, tokens: int, device: torch.device, first: int = 0) -> Tensor:
    """Where each image's rows start, (B, 1), `first` rows skipped. Kept between calls, apart from what a compiler
    traces."""
    if device.type == "meta" or torch.compiler.is_compiling():
        return _made_starts(batch, tokens, device, first)
    return _kept_starts(batch, tokens, device, first)


def _made_starts(batch: int, tokens: int, device: torch.device, first: int) -> Tensor:
    return torch.arange(first, first + batch * tokens, tokens, device=device)[:, None]


@functools.lru_cache(maxsize=64)
def _kept_starts(batch: int, tokens: int, device: torch.device, first: int) -> Tensor:
    with torch.inference_mode(False):
        return _made_starts(batch, tokens, device, first)


def of_one_length(x: Tensor) -> Tensor:
    """Tokens (B, N, D), each times what makes all of them equally long, so that their products rank as cosines do; what
    is zero stays so."""
    if x.is_cuda:  # one kernel, in a third of the time of a norm and a division
        return F.rms_norm(x, x.shape[-1:], eps=1e-12)
    return x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def mix(low: Tensor, high: Tensor, share: Tensor) -> Tensor:
    """(1 - share) * low + share * high; the gradient reaches `share` (a scalar). Of two precisions, as autocast leaves
    them, the result has the wider one."""
    kind = torch.promote_types(low.dtype, high.dtype)
    return torch.lerp(low.to(kind), high.to(kind), share.to(kind))


def unpack(tokens: Tensor, patch: int, size: tuple[int, int]) -> Tensor:
    """Tokens (B, N, C p p) as latents (B, C, h, w) of this size (h, w)."""
    return F.fold(tokens.transpose(1, 2), size, patch, stride=patch)
