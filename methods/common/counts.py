"""How many tokens go through each layer, where a device prefers some counts to others."""

from __future__ import annotations

from collections.abc import Sequence

from harness.tokens import kept_count


class Counts:
    """Kept tokens by layer.

    ratios: one per layer. multiple: where above 1, layers that leave tokens out keep a multiple of it (GPUs work in
    tiles of tokens, and a rest costs as much as a whole tile); what rounding takes from one layer the next ones give
    back, so that the mean stays. rounding: of a multiple of 1, see `kept_count`.
    """

    def __init__(self, ratios: Sequence[float], multiple: int = 1, rounding: str = "ceil") -> None:
        self.ratios, self.multiple, self.rounding = tuple(ratios), multiple, rounding
        self._of: dict[int, tuple[int, ...]] = {}

    def of(self, layer: int, tokens: int) -> int:
        """For a layer that sees so many tokens."""
        if self.multiple == 1:
            return kept_count(self.ratios[layer], tokens, self.rounding)
        if tokens not in self._of:
            self._of[tokens] = tuple(self._spread(tokens))
        return self._of[tokens][layer]

    def _spread(self, tokens: int) -> Sequence[int]:
        found, owed = list[int](), 0.0  # owed: tokens that earlier layers kept too few of
        for ratio in self.ratios:
            if not ratio:
                found.append(tokens)
                continue
            exact = (1 - ratio) * tokens + owed
            count = self.multiple * round(exact / self.multiple)
            count = min(tokens, max(min(self.multiple, tokens), count))
            owed = exact - count
            found.append(count)
        return found
