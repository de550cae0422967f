"""Static token pruning: keep sets that do not depend on the image.

Calibrated once, without training: a token position's importance in a layer is the mean norm of what the block adds
there, relative to the token's own norm, over calibration images and timesteps. The least important positions bypass
the layer, always the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from harness.backbones.base import Backbone
from harness.method import Fitting, Method, MethodSettings
from harness.spec import Call, State
from harness.tokens import kept_count, scatter, take, top_k


class Static(Method):
    """Each layer runs on its calibrated keep set."""

    name = "static"
    needs_state = True

    def adapter(self) -> str:
        return self.name  # one calibration serves every ratio

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        assert state is not None
        importance = state.tensors["importance"]  # (layers, H, W)
        resized: dict[tuple[int, int, int], Tensor] = {}

        def means(call: Call) -> Tensor:
            """The importance (B, N) of the tokens that are there."""
            key = (call.layer, call.grid.height, call.grid.width)
            if key not in resized:
                mean = importance[call.layer].float()[None, None]
                size = (call.grid.height, call.grid.width)
                resized[key] = nn.functional.interpolate(mean, size, mode="bilinear").flatten(1).to(call.x.device)
            everywhere = resized[key].expand(len(call.x), -1)
            return everywhere if call.index is None else everywhere.gather(1, call.index)

        def block(call: Call) -> Tensor:
            k = kept_count(self.ratio or 0.0, call.x.shape[1])
            if k == call.x.shape[1]:
                return call.run(call.x)
            index = top_k(means(call), k)  # (B, K)
            return scatter(call.x, index, call.run(take(call.x, index), index))

        with backbone.advise("block", block):
            yield

    def fitting(self, backbone: Backbone, steps: int, options: MethodSettings | None = None) -> Fitting:
        totals: dict[int, Tensor] = {}
        counts: dict[int, Tensor] = {}
        shape: list[int] = []
        seen = [0]

        def block(call: Call) -> Tensor:
            out = call.run(call.x)
            added = (out - call.x).norm(dim=-1) / call.x.norm(dim=-1).clamp(min=1e-6)  # (B, N)
            everywhere = torch.arange(call.grid.tokens).expand(len(added), -1)
            index = (everywhere if call.index is None else call.index.cpu()).flatten()
            for sums, what in ((totals, added.float().cpu().flatten()), (counts, torch.ones(index.shape))):
                sums.setdefault(call.layer, torch.zeros(call.grid.tokens)).index_add_(0, index, what)
            shape[:] = [call.grid.height, call.grid.width]
            seen[0] += len(call.x) if call.layer == 0 else 0
            return out

        @contextmanager
        def observe() -> Iterator[None]:
            with backbone.advise("block", block):
                yield

        def state() -> State:
            mean = torch.stack([totals[layer] / counts[layer].clamp(min=1) for layer in sorted(totals)])
            return State({"importance": mean.view(-1, *shape)}, {"samples": seen[0]})

        return Fitting(module=nn.Module(), observe=observe, state=state, trains=False)
