"""AT-EDM (Wang et al., "Attention-Driven Training-Free Efficiency Enhancement of Diffusion Models", CVPR 2024).

Token importance is a page-rank over self-attention maps, unimportant tokens are pruned, and they are recovered from the
tokens most similar to them. The authors' U-Net prunes within a stage: its first attention sees all tokens, each further
one ranks those that it sees, and behind the last one the pruned tokens are recovered.

Here the last exempt layer sees all tokens, and its map ranks them for the layers behind it. At the end of each group of
layers the map of the tokens that ran ranks them anew; the others keep their rank. Three things are ours, chosen on
calibration scenes: pruned tokens are recovered behind every block, both halves of classifier-free guidance keep the
same tokens, and tokens are drawn by their importance, afresh in every layer and step, so that a token that is left out
once comes through the next time. `temperature=0, group=1, recover=token` is the paper's selection.

Letters: B batch, N tokens, K kept tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from harness import guidance
from harness.backbones.base import Backbone
from harness.method import Method
from harness.spec import Call, State, Step
from harness.tokens import choose, kept_count, run_on
from methods.common.exempt import FIRST_LAYERS, HalfExemptSettings, share_of_each
from methods.common.noise import SeededNoise
from methods.common.recovery import What, recovered


class ATEDMSettings(HalfExemptSettings):
    ratio: float = Field(
        0.2, ge=0.0, le=0.75, description="share of tokens that are spared, on average over all layers and steps"
    )
    first_layers: int | None = Field(  # type: ignore[assignment]
        None, ge=1, description="layers at the start that run on all tokens; the last one ranks them. None: half of "
        f"them, at most {FIRST_LAYERS}",
    )  # fmt: skip
    group: int = Field(
        64, ge=1, le=64, description="consecutive pruning layers that share one ranking; 1: every attention layer that "
        "prunes ranks the tokens that it sees for the next one, as in the paper",
    )  # fmt: skip
    early: float = Field(
        0.0, ge=0.0, le=1.0, description="share of the steps, at the start, in which half as many tokens are pruned "
        "(paper: fewer in 15 of 50 steps)",
    )  # fmt: skip
    temperature: float = Field(
        2.0, ge=0.0, description="randomness of the choice: 0 keeps the tokens that rank highest, as in the paper; a "
        "large one any",
    )  # fmt: skip
    iterations: int = Field(3, ge=1, le=20, description="power iterations of the page-rank")
    recover: What = Field(
        "update",
        description="what a pruned token gets from the kept one most like it: its update, or, as in the paper, the "
        "token itself",
    )


class ATEDM(Method):
    """Prune the tokens that attention maps rank lowest, and recover them from similar ones."""

    name = "at-edm"
    Settings = ATEDMSettings
    parts = frozenset({"block", "self_attention"})
    requires = frozenset({"attention maps"})
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
        layers = settings.layers_of(backbone.layers)
        first = layers.start - 1
        rank: list[Tensor] = []  # (B, N) importance
        kept: list[Tensor] = []  # (B, K) of the block that runs

        noise = SeededNoise()

        def attention(call: Call) -> Tensor:
            if not settings.runs(call.step):
                return call.run(call.x)
            out, maps = backbone.attend(call)
            scores = page_rank(maps, settings.iterations)
            if noise.paired:
                scores = guidance.twice(guidance.mean(scores))
            rank[:] = [scores if call.layer == first else reranked(rank[0], kept[0], scores)]
            return out

        def block(call: Call) -> Tensor:
            if not settings.runs(call.step):
                return call.run(call.x)
            share = pruned_share(settings, backbone.layers, call.step, backbone.start)
            scores = weighed(rank[0], noise(call), settings.temperature)
            k = kept_count(share, call.x.shape[1])
            order = choose(scores, k)  # (B, M), the kept ones first
            kept[:] = [order[:, :k]]
            out = run_on(order, call, k)
            return backbone.compiled(recovered)(call.x, out, kept[0], settings.recover, order[:, k:])

        rankers = [first, *(layer for layer in layers[settings.group - 1 : -1 : settings.group])]
        with (
            noise.on(backbone),
            backbone.advise("block", block, layers),
            backbone.advise("self_attention", attention, rankers),
        ):
            yield


def pruned_share(settings: ATEDMSettings, layers: int, step: Step, start: int = 0) -> float:
    """The share of tokens that a pruning block spares at this step, so that the mean over all layers and the steps from
    `start` on is the ratio. Raises UserError where that is too much."""
    steps = [index for index in settings.steps_of(step.count) if index >= start]
    early = round(settings.early * step.count)
    halved = sum(index < early for index in steps)
    running = len(settings.layers_of(layers)) * (len(steps) - halved / 2)
    share = share_of_each("at-edm", settings.ratio, running, layers * (step.count - start))
    return share / 2 if step.index < early else share


def page_rank(maps: Tensor, iterations: int) -> Tensor:
    """Importance of tokens (B, N) from attention maps (B, heads, N, N), queries in rows: a token is important that
    important tokens attend to. Heads are combined by their root mean square (Sec. 3.2)."""
    tokens = maps.shape[-1]
    score = maps.new_full((*maps.shape[:2], 1, tokens), 1 / tokens)  # (B, heads, 1, N)
    for _ in range(iterations):
        score = score @ maps  # rows sum to 1, so that the scores go on summing to 1
    return score[:, :, 0].float().square().mean(1).sqrt()  # the square of 1 / N is below what half precision holds


def reranked(rank: Tensor, index: Tensor, scores: Tensor) -> Tensor:
    """The importance (B, N) of all tokens after those at index (B, K) were ranked among themselves, (B, K): together
    they keep the importance that they had."""
    had = rank.gather(1, index).sum(1, keepdim=True)
    return rank.scatter(1, index, scores * (had / scores.sum(1, keepdim=True)))


def weighed(rank: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """Scores (B, N) whose highest k are drawn without replacement, by importance (B, N): its logarithm, standardised
    over an image's tokens and divided by the temperature, with Gumbel noise (B, N). At temperature 0: the importance
    itself."""
    if not temperature:
        return rank
    log = rank.float().clamp(min=1e-12).log()
    log = (log - log.mean(1, keepdim=True)) / log.std(1, keepdim=True).clamp(min=1e-6)
    return log / temperature + noise
