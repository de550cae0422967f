"""Learned token routing (mixture of depths; DiffCR, Sec. 3.1), shared by every method that routes, so that methods
differ in their ratios alone.

A router is one linear layer without bias, then a sigmoid: one score in 0..1 per token. The highest scores go through
the block, the others leave as they came.

Letters: B batch, N tokens, K kept tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.backbones.base import Backbone
from harness.method import MethodSettings, Watch
from harness.spec import Call, State
from harness.tokens import scatter, take, top_k

Rescale = Literal["mlp", "update", "none"]


class RoutingFit(MethodSettings):
    """Fit options of every method that routes."""

    rescale: Rescale = Field("mlp", description="what the router's score multiplies (pseudocode: the gated MLP branch)")
    score_scale: float = Field(
        2.0,
        gt=0,
        description="factor on the score. The paper's is 1; 2 lets an untrained router leave blocks unchanged",
    )
    router_lr: float = Field(4.0, gt=0, description="multiple of the base learning rate for the routers (ours)")
    warm_start: bool = Field(
        True,
        description="start the routers as a linear reading of how much the dense block changes each token (ours; the "
        "paper does not say how routers start), instead of at random",
    )


class Routers(nn.Module):
    """One router per layer: weight (layers, D). Small random values: equal scores could not tell tokens apart."""

    def __init__(self, layers: int, width: int, std: float = 0.02) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(layers, width, generator=generator) * std)

    def warm_start(self, backbone: Backbone, watch: Watch, spread: float = 0.3) -> None:
        """Watch dense forward passes, then set each router by ridge regression to the norm of what its block adds to a
        token, less the image's mean: routing compares the tokens of one image. Logits get standard deviation `spread`,
        small enough for scores to stay near 1/2."""
        layers, width = self.weight.shape
        device = self.weight.device
        gram = torch.zeros(layers, width, width, dtype=torch.float64, device=device)
        moment = torch.zeros(layers, width, dtype=torch.float64, device=device)
        tokens = [0] * layers

        def block(call: Call) -> Tensor:
            out = call.run(call.x)
            x = call.x.flatten(0, 1).double()  # (B N, D)
            added = (out - call.x).norm(dim=-1).double()  # (B, N)
            tokens[call.layer] += len(x)
            gram[call.layer] += x.T @ x
            moment[call.layer] += (added - added.mean(1, keepdim=True)).flatten() @ x
            return out

        with backbone.advise("block", block):
            watch()
        for layer in range(layers):
            ridge = gram[layer].diagonal().mean() * 1e-4 * torch.eye(width, dtype=torch.float64, device=device)
            weight = torch.linalg.solve(gram[layer] + ridge, moment[layer])
            power = (weight @ gram[layer] @ weight / tokens[layer]).sqrt().clamp(min=1e-12)
            with torch.no_grad():
                self.weight[layer] = (weight * spread / power).to(self.weight.dtype)


def random_routers(backbone: Backbone) -> State:
    """A state for cost alone: untrained routers, in the model's precision."""
    weight = Routers(backbone.layers, backbone.width).weight.detach()
    like = next(backbone.transformer.parameters())
    return State({"router": weight.to(like.dtype)}, RoutingFit.model_validate({}).model_dump())


class Routed:
    """Routed blocks: `on` puts an advice around blocks that calls `block`, and the score around their MLPs.

    rescale: what the score multiplies, so that the router gets a gradient. "mlp": the gated MLP branch, as in the
    authors' pseudocode, or, in layers that fuse it with attention (Flux's single blocks), everything that they add;
    "update": everything that the block adds; "none": nothing (the router stays as it is).
    scale: the score's factor. 1 is the paper's; 2 makes an untrained router (score 1/2) leave the block as it is, so
    that a fit starts from the dense model's own blocks.
    """

    def __init__(self, rescale: Rescale = "mlp", scale: float = 2.0) -> None:
        self.rescale, self.scale = rescale, scale
        self._factor: Tensor | None = None
        self._split: set[int] = set()  # layers with an MLP of their own

    @contextmanager
    def on(
        self, backbone: Backbone, block: Callable[[Call], Tensor], layers: Sequence[int] | None = None
    ) -> Iterator[None]:
        """`block` is around the blocks of these layers, all by default."""
        chosen = range(backbone.layers) if layers is None else layers
        split = [layer for layer in chosen if "mlp" in backbone.parts_of(layer)]
        self._split = set(split)
        with backbone.advise("block", block, chosen), backbone.advise("mlp", self._mlp, split):
            yield

    def block(self, call: Call, weight: Tensor, k: int) -> Tensor:
        """Run the block on the k tokens with the highest score. weight: (D,). All tokens kept: the original path."""
        x = call.x  # (B, N, D)
        if k >= x.shape[1]:
            return call.run(x)
        scores = (x @ weight.to(x.dtype)).sigmoid()  # (B, N)
        index = top_k(scores.detach(), k)  # (B, K)
        kept = take(x, index)  # (B, K, D)
        factor = (scores.gather(1, index) * self.scale)[..., None]  # (B, K, 1)
        if self.rescale == "update" or (self.rescale == "mlp" and call.layer not in self._split):
            out = kept + factor * (call.run(kept, index) - kept)
        else:
            self._factor = factor if self.rescale == "mlp" else None
            try:
                out = call.run(kept, index)
            finally:
                self._factor = None
        return scatter(x, index, out)

    def _mlp(self, call: Call) -> Tensor:
        """The MLP branch, times the score of its tokens inside a routed block."""
        out = call.run(call.x)
        return out if self._factor is None else out * self._factor
