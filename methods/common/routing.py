"""Learned token routing (mixture of depths; DiffCR, Sec. 3.1), shared by every method that routes, so that methods
differ in their ratios alone.

A router is one linear layer without bias: one logit per token, whose sigmoid is its score in 0..1. The highest go
through the block, the others leave as they came.

Letters: B batch, N tokens, K kept tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from harness.backbones.base import Backbone
from harness.kernels.routing import select
from harness.method import CalibrationPass
from harness.spec import Call, RunRows, State
from harness.tokens import Rows, fused
from methods.common.noise import FreshNoise, SeededNoise, Source
from methods.common.routing_settings import Rescale, RoutingFit, WarmStart
from methods.common.sensitivity import read_sensitivity, read_updates


class Routers(nn.Module):
    """One router per layer: weight (layers, D). Small random values: equal scores could not tell tokens apart."""

    def __init__(self, layers: int, width: int, std: float = 0.02) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(layers, width, generator=generator) * std)

    def warm_start(
        self, backbone: Backbone, watch: CalibrationPass, kind: WarmStart = "sensitivity", spread: float = 0.3
    ) -> None:
        """Set the routers from dense forward passes, see `methods.common.sensitivity`.

        Logits get standard deviation `spread`, small enough for scores to stay near 1/2: of the norm in every layer,
        of the sensitivity over all layers, so that layers whose tokens differ less are decided less sharply."""
        ridge = read_sensitivity(backbone, watch) if kind == "sensitivity" else read_updates(backbone, watch)
        weights = ridge.solve()
        found = ridge.spread(weights)  # (layers,)
        if kind == "sensitivity":
            found = found.square().mean().sqrt().expand_as(found)
        with torch.no_grad():
            self.weight.copy_(weights * (spread / found.clamp(min=1e-12))[:, None])


def calibration(routers: Routers, backbone: Backbone, options: RoutingFit) -> Callable[[CalibrationPass], None] | None:
    """How a fit's routers start; None: as they are."""
    if options.warm_start == "random":
        return None
    return lambda watch: routers.warm_start(backbone, watch, options.warm_start, options.warm_spread)


def random_routers(backbone: Backbone) -> State:
    """A state for cost alone: untrained routers, in the model's precision."""
    weight = Routers(backbone.layers, backbone.width).weight.detach()
    like = next(backbone.transformer.parameters())
    return State({"router": weight.to(like.dtype)}, RoutingFit.model_validate({}).model_dump())


class Routed:
    """Routed blocks: `on` puts an advice around blocks that calls `block`, and the score around their MLPs.

    rescale: what the score multiplies, so that the router gets a gradient. "mlp": the gated MLP branch, as in the
    authors' pseudocode, or, in layers that fuse it with attention (Flux's single blocks), everything that they add;
    "update": everything that the block adds; "none": nothing.
    scale: the score's factor. 1 is the paper's; 2 makes an untrained router (score 1/2) leave the block as it is, so
    that a fit starts from the dense model's own blocks.
    full: the score multiplies where all tokens are kept, too.
    noise: what is added to the logits before the choice; the score has none of it.
    straight: in one of this many training steps, which `step` counts, the choice has a straight-through gradient.
    control: "random-tokens": the noise alone chooses; "average-tokens": the logits averaged over the batch, and it.
    """

    def __init__(
        self,
        rescale: Rescale = "mlp",
        scale: float = 2.0,
        *,
        full: bool = False,
        noise: Source | None = None,
        straight: int = 0,
        control: str = "",
    ) -> None:
        self.rescale, self.scale, self.full, self.noise, self.straight = rescale, scale, full, noise, straight
        self.control = control
        self.step = 0
        self._factor: Tensor | None = None
        self._split: set[int] = set()  # layers with an MLP of their own
        self._backbone: Backbone | None = None

    @classmethod
    def fitted(cls, facts: Mapping[str, Any], temperature: float | None, control: str = "") -> Routed:
        """For inference, from an adapter's facts. temperature: None for the fit's own; adapters from before there was
        noise have none."""
        chosen = facts.get("noise", 0.0) if temperature is None else temperature
        if control == "random-tokens":
            chosen = 1.0
        noise = SeededNoise(chosen) if chosen else None
        full = facts.get("score_dense", False)
        return cls(facts["rescale"], facts["score_scale"], full=full, noise=noise, control=control)

    @classmethod
    def training(cls, options: RoutingFit, control: str = "") -> Routed:
        alone = control == "random-tokens"  # the router decides nothing, so that nothing can teach it
        temperature = 1.0 if alone else options.noise
        noise = FreshNoise(temperature) if temperature else None
        straight = 0 if alone else options.straight
        return cls(
            options.rescale, options.score_scale, full=options.score_dense, noise=noise, straight=straight,
            control=control,
        )  # fmt: skip

    def renew(self, generator: torch.Generator) -> None:
        """A new training step draws its noise from this generator."""
        if isinstance(self.noise, FreshNoise):
            self.noise.renew(generator)

    @contextmanager
    def on(
        self, backbone: Backbone, block: Callable[[Call], Tensor], layers: Sequence[int] | None = None
    ) -> Iterator[None]:
        """`block` is around the blocks of these layers, all by default."""
        chosen = range(backbone.layers) if layers is None else layers
        split = [layer for layer in chosen if "mlp" in backbone.parts_of(layer)]
        self._split, self._backbone = set(split), backbone
        with ExitStack() as stack:
            if isinstance(self.noise, SeededNoise):
                stack.enter_context(self.noise.on(backbone))
            stack.enter_context(backbone.advise("block", block, chosen))
            if self.rescale == "mlp":
                stack.enter_context(backbone.advise("mlp", self._mlp, split))
            yield

    def block(self, call: Call, weight: Tensor, k: int) -> Tensor:
        """Run the block on the k tokens with the highest logit, noise included. weight: (D,). All tokens kept: the
        original path."""
        x = call.x  # (B, N, D)
        everything = k >= x.shape[1]
        if everything and not (self.full and self.rescale != "none"):
            return call.run(x)
        logits = x @ weight.to(x.dtype)  # (B, N)
        if everything:
            return self._scaled(call, x, None, self._factor_of(logits))
        if (run_rows := fused(call)) is not None and self._fusable:
            return self._fused(call, run_rows, logits, k)
        ranked = self._ranked(call, logits)
        values, index = ranked.topk(k, dim=1, sorted=False)  # (B, K); in any order, as in `top_k`
        rows = Rows.of(index, x.shape[1])
        kept = rows.take(x)  # (B, K, D)
        whole = self._update_of_all(call) if self._teaches(call) else None
        factor = None
        if self.rescale != "none":
            factor = self._factor_of(values if ranked is logits else logits.gather(1, index))
        out = self._scaled(call, kept, index, factor)
        if whole is None:
            return rows.put(x, out)
        # Forward as ever; backward, the router hears of every token what its update is worth to the loss.
        updates = rows.put(whole, (out - kept).detach())  # (B, N, D)
        soft = soft_choice(logits, ranked.detach(), k)
        return rows.put(x, out) + (soft - soft.detach())[..., None].to(x.dtype) * updates

    @property
    def _fusable(self) -> bool:
        """A control is for figures without a score's factor, and a factor on the whole update has no fused form."""
        return self.rescale == "none" or (self.rescale == "mlp" and not self.control)

    def _fused(self, call: Call, run_rows: RunRows, logits: Tensor, k: int) -> Tensor:
        """The same as `block` with its small operations fused, for inference."""
        x, factor_scale = call.x, None if self.rescale == "none" else self.scale
        if self.control:
            order, factor = select(self._ranked(call, logits), k)
        else:
            order, factor = select(logits, k, self.noise(call) if self.noise is not None else None, factor_scale)
        if factor is None:
            return run_rows(x, order, k)
        if self._backbone is not None and self._backbone.sole_advice(call.layer, "mlp", self._mlp):
            return run_rows(x, order, k, factor)
        self._factor = factor[..., None]  # other advice around the MLP comes behind the factor
        try:
            return run_rows(x, order, k)
        finally:
            self._factor = None

    def _factor_of(self, logits: Tensor) -> Tensor:
        """What the score multiplies with, (B, K, 1), from logits (B, K)."""
        scores = logits.sigmoid()[..., None]
        return scores if self.scale == 1 else scores * self.scale

    def _ranked(self, call: Call, logits: Tensor) -> Tensor:
        """What the choice goes by, (B, N); the scores rank as their logits do."""
        if self.control == "average-tokens":
            logits = _averaged(logits, call)
        if self.noise is None:
            return logits
        return self.noise(call) if self.control == "random-tokens" else self.noise(call) + logits

    def _teaches(self, call: Call) -> bool:
        if not self.straight or not torch.is_grad_enabled():
            return False
        # half a turn away from the steps in which DiffCR runs both its bins, so that no step is much longer
        return (self.step + call.layer + self.straight // 2) % self.straight == 0

    @staticmethod
    @torch.no_grad()
    def _update_of_all(call: Call) -> Tensor:
        return call.run(call.x) - call.x

    def _scaled(self, call: Call, x: Tensor, index: Tensor | None, factor: Tensor | None) -> Tensor:
        """The block on x (B, K, D) with factors (B, K, 1)."""
        if factor is not None and (self.rescale == "update" or call.layer not in self._split):
            return x + factor * (call.run(x, index) - x)
        self._factor = factor
        try:
            return call.run(x, index)
        finally:
            self._factor = None

    def _mlp(self, call: Call) -> Tensor:
        """The MLP branch, times the score of its tokens inside a routed block."""
        out = call.run(call.x)
        return out if self._factor is None else out * self._factor


def soft_choice(logits: Tensor, ranked: Tensor, k: int) -> Tensor:
    """A soft version (B, N) of the choice of the k highest of `ranked` (B, N), which are the logits and their noise: a
    sigmoid around the threshold between kept and left tokens. Logits count relative to the image's mean, since a shift
    of all of them chooses nothing."""
    highest = ranked.topk(k + 1, dim=1).values
    threshold = highest[:, k - 1 :].mean(1, keepdim=True)  # (B, 1)
    relative = logits - logits.mean(1, keepdim=True)
    return (ranked - threshold + relative - relative.detach()).sigmoid()


def _averaged(logits: Tensor, call: Call) -> Tensor:
    """Logits (B, N), each the mean over the batch of those at its place of the grid."""
    if call.index is None:
        return logits.mean(0, keepdim=True).expand_as(logits)
    places = call.index.flatten()
    sums = logits.new_zeros(call.grid.tokens).index_add(0, places, logits.flatten())
    counts = torch.zeros_like(sums).index_add(0, places, torch.ones_like(logits).flatten())
    return (sums / counts.clamp(min=1))[call.index]
