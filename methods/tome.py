"""Token merging (ToMe; Bolya and Hoffman, "Token Merging for Fast Stable Diffusion", 2023), through tomesd."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from pydantic import Field
from tomesd.merge import bipartite_soft_matching_random2d
from torch import Tensor

from harness.backbones.base import Backbone
from harness.method import Method, RatioSettings
from harness.spec import Call, State


class ToMeSettings(RatioSettings):
    ratio: float = Field(
        0.2,
        ge=0.0,
        le=0.75,
        description="share of tokens merged away; 0.75 is all but one of 2 x 2",
    )
    around: Literal["mlp", "self_attention", "block"] = Field(
        "block", description="the part that runs on merged tokens"
    )
    random: bool = Field(True, description="choose each 2 x 2 window's destination token at random, else its first")


class ToMe(Method):
    """Merge the most similar tokens before a part, run it on the rest, and copy the results back.

    Around `block`, what is copied back is the block's update, so that merged tokens keep their own residual.
    """

    name = "tome"
    Settings = ToMeSettings
    parts = frozenset({"mlp", "self_attention", "block"})

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        settings: ToMeSettings = self.settings  # type: ignore[assignment]
        generators: dict[torch.device, torch.Generator] = {}

        def advice(call: Call) -> Tensor:
            x = call.x  # (B, N, D)
            merged = int(settings.ratio * x.shape[1])
            if not merged:
                return call.run(x)
            generator = generators.setdefault(x.device, torch.Generator(x.device).manual_seed(0))
            # A subset of the grid is a line of tokens, with windows of four instead of 2 x 2.
            line = call.index is not None
            width, height, across, down = (x.shape[1], 1, 4, 1) if line else (call.grid.width, call.grid.height, 2, 2)
            merge, unmerge = bipartite_soft_matching_random2d(
                x, width, height, across, down, merged, no_rand=not settings.random, generator=generator
            )
            if call.part == "block":
                fewer = merge(x)  # (B, N - merged, D)
                return x + unmerge(call.run(fewer) - fewer)
            return unmerge(call.run(merge(x)))

        with backbone.on_begin(generators.clear), backbone.advise(settings.around, advice):
            yield
