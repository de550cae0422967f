"""AT-EDM (Wang et al., "Attention-Driven Training-Free Efficiency Enhancement of Diffusion Models", CVPR 2024).

Token importance is a page-rank over self-attention maps, unimportant tokens are pruned, and before the next map they
are recovered from the tokens most similar to them. The authors' U-Net prunes within a stage, from its first attention
to its end. Here a stage is a group of consecutive blocks: the first one, the leader, runs on all tokens and its map
ranks them, the others run on those that are kept, and behind the last one the pruned tokens are recovered.

Letters: B batch, N tokens, K kept tokens, D width, G blocks in a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from harness.backbones.base import Backbone
from harness.errors import UserError
from harness.method import Method, RatioSettings
from harness.spec import Call, State
from harness.tokens import kept_count, scatter, take, top_k

MOST = 0.9
"""No pruning block spares more than this."""


class ATEDMSettings(RatioSettings):
    ratio: float = Field(
        0.2,
        ge=0.0,
        le=0.75,
        description="share of tokens spared, on average over all layers and steps, leaders included",
    )
    group: int = Field(4, ge=2, le=64, description="consecutive blocks that share one map")
    early: float = Field(
        0.3, ge=0.0, le=0.9, description="share of the steps, at the start, in which only every second group prunes "
        "(paper: 15 of 50 steps prune less)",
    )  # fmt: skip
    iterations: int = Field(3, ge=1, le=20, description="power iterations of the page-rank")
    recover: Literal["update", "token"] = Field(
        "update",
        description="what a pruned token gets from the kept one most like it: its update over the group, or, as in the "
        "paper, the token itself",
    )


class ATEDM(Method):
    """Prune the tokens that attention maps rank lowest, and recover them from similar ones."""

    name = "at-edm"
    Settings = ATEDMSettings
    parts = frozenset({"block", "self_attention"})
    needs = frozenset({"attention maps"})
    source = "Wang et al., 2024, Attention-Driven Training-Free Efficiency Enhancement of Diffusion Models"
    selects = "changing"
    refuses: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("depth", "depth-ft"), "the block whose attention map ranks the tokens may be left out"
    )

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        settings: ATEDMSettings = self.settings  # type: ignore[assignment]
        if not settings.ratio:
            yield
            return
        groups = grouped(backbone.layers, settings.group)
        place = {layer: members for members in groups for layer in members}
        scores: list[Tensor] = []  # (B, N) by the leader of the group that runs
        kept: list[Tensor] = []  # (B, K)
        start: list[Tensor] = []  # (B, N, D) behind the leader

        def prunes(call: Call) -> bool:
            members = place[call.layer]
            early = call.step.index < round(settings.early * call.step.count)
            return len(members) > 1 and not (early and groups.index(members) % 2)

        def attention(call: Call) -> Tensor:
            if call.layer != place[call.layer][0] or not prunes(call):
                return call.run(call.x)
            out, share = backbone.attend(call)
            scores[:] = [page_rank(share, settings.iterations)]
            return out

        def block(call: Call) -> Tensor:
            members = place[call.layer]
            if not prunes(call):
                return call.run(call.x)
            if call.layer == members[0]:
                out = call.run(call.x)
                spared = spared_share(settings, backbone.layers, call.step.count)
                kept[:] = [top_k(scores[0], kept_count(spared, out.shape[1]))]
                start[:] = [out]
                return out
            index = kept[0]
            out = scatter(call.x, index, call.run(take(call.x, index), index))
            return recovered(start[0], out, index, settings.recover) if call.layer == members[-1] else out

        with backbone.advise("block", block), backbone.advise("self_attention", attention):
            yield


def grouped(layers: int, size: int) -> list[range]:
    """Consecutive blocks in groups; the last one may be smaller."""
    return [range(first, min(first + size, layers)) for first in range(0, layers, size)]


def spared_share(settings: ATEDMSettings, layers: int, steps: int) -> float:
    """The share of tokens that pruning blocks spare, so that the mean over all layers and steps is the ratio. Raises
    UserError where that is too much."""
    followers = [len(members) - 1 for members in grouped(layers, settings.group)]
    early = round(settings.early * steps)
    runs = early * sum(followers[::2]) + (steps - early) * sum(followers)
    share = settings.ratio * layers * steps / runs if runs else float("inf")
    if share > MOST + 1e-9:
        raise UserError(
            f"at-edm cannot spare {settings.ratio:g} of the tokens on average: with groups of {settings.group} in "
            f"{layers} layers and {early} early of {steps} steps, {MOST * runs / (layers * steps):.3g} is the most"
        )
    return share


def page_rank(share: Tensor, iterations: int) -> Tensor:
    """Importance of tokens (B, N) from attention maps (B, heads, N, N), queries in rows: a token is important that
    important tokens attend to. Heads are combined by their root mean square (Sec. 3.2)."""
    tokens = share.shape[-1]
    score = share.new_full((*share.shape[:2], 1, tokens), 1 / tokens)  # (B, heads, 1, N)
    for _ in range(iterations):
        score = score @ share  # rows sum to 1, so that the scores go on summing to 1
    return score[:, :, 0].square().mean(1).sqrt()


def recovered(start: Tensor, out: Tensor, index: Tensor, what: Literal["update", "token"]) -> Tensor:
    """Tokens (B, N, D) behind a group whose kept ones stand at index (B, K): each pruned one gets what the kept one had
    that was most similar to it (cosine) in front of the group's pruning blocks, start (B, N, D)."""
    pruned = torch.ones(start.shape[:2], dtype=torch.bool, device=start.device).scatter(1, index, False)
    others = top_k(pruned.float(), start.shape[1] - index.shape[1])  # (B, N - K); nonzero would wait for the device
    if not others.shape[1]:
        return out
    there, like = F.normalize(take(start, others), dim=-1), F.normalize(take(start, index), dim=-1)
    nearest = index.gather(1, (there @ like.transpose(1, 2)).argmax(-1))  # (B, N - K)
    given = take(out, nearest)
    if what == "update":
        given = take(start, others) + given - take(start, nearest)
    return scatter(out, others, given)
