"""What a token's update by a block is worth: calibrated without training, read by linear routers.

The sensitivity of a token in a block is the expected squared change of the model's prediction, to first order, if its
update by this block were left out: s = E_r[(g . u)^2], where u = block(x) - x is the update, r is standard normal over
the entries of the prediction, and g is the gradient of (prediction . r) at the block's output (ours; a Hutchinson
estimate of |J u|^2, J being the Jacobian of the prediction). The router is the ridge regression of log s, less the
image's mean, on the block's input.

Letters: B batch, N tokens, D width, L layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.backbones.base import Backbone
from harness.method import CalibrationPass
from harness.spec import Call

STEPS, BATCHES, DRAWS = 8, 2, 4
_RIDGE = 1e-4  # of the mean square of the inputs
_LEAST = 1e-9  # of the mean sensitivity, below which its logarithm means nothing


class Ridge:
    """Linear readings of what a block is given, one per layer, of targets that are compared within an image."""

    def __init__(self, layers: int, width: int, device: torch.device) -> None:
        self.gram = torch.zeros(layers, width, width, dtype=torch.float64, device=device)
        self.moment = torch.zeros(layers, width, dtype=torch.float64, device=device)
        self.tokens = [0] * layers

    def add(self, layer: int, x: Tensor, target: Tensor) -> None:
        """x: (B, N, D), target: (B, N), of which the image's mean is taken off."""
        rows = x.detach().flatten(0, 1).double()
        target = target.detach().double()
        self.tokens[layer] += len(rows)
        self.gram[layer] += rows.T @ rows
        self.moment[layer] += (target - target.mean(1, keepdim=True)).flatten() @ rows

    def solve(self) -> Tensor:
        """Weights (L, D), in the targets' own unit."""
        return torch.stack([self._weight(layer) for layer in range(len(self.tokens))]).float()

    def spread(self, weights: Tensor) -> Tensor:
        """Root mean square of the readings that these weights (L, D) give, (L,)."""
        weights = weights.double()
        power = torch.einsum("ld,lde,le->l", weights, self.gram, weights)
        return (power / torch.tensor(self.tokens).to(power)).sqrt().float()

    def _weight(self, layer: int) -> Tensor:
        gram = self.gram[layer]
        ridge = gram.diagonal().mean() * _RIDGE * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        return torch.linalg.solve(gram + ridge, self.moment[layer])


def read_updates(backbone: Backbone, watch: CalibrationPass) -> Ridge:
    """Readings of the norm of what a block adds to a token."""
    ridge = _ridge(backbone)

    def block(call: Call) -> Tensor:
        out = call.run(call.x)
        ridge.add(call.layer, call.x, (out - call.x).norm(dim=-1))
        return out

    with backbone.advise("block", block):
        watch()
    return ridge


def read_sensitivity(backbone: Backbone, watch: CalibrationPass, draws: int = DRAWS) -> Ridge:
    """Readings of the logarithm of the sensitivity, along the model's own sampling trajectories."""
    ridge = _ridge(backbone)
    found: dict[int, tuple[Tensor, Tensor]] = {}
    generator = torch.Generator().manual_seed(0)

    def block(call: Call) -> Tensor:
        x = call.x if call.x.requires_grad else call.x.detach().requires_grad_()
        out = call.run(x)
        found[call.layer] = x, out
        return out

    def each(prediction: Tensor, _target: Tensor | None) -> None:
        for layer, value in sensitivity(prediction, found, draws, generator).items():
            ridge.add(layer, found[layer][0], value.clamp(min=_LEAST * float(value.mean())).log())
        found.clear()

    with torch.enable_grad(), backbone.advise("block", block):
        watch(each, batches=BATCHES, sampled=STEPS)
    return ridge


def sensitivity(
    prediction: Tensor, blocks: dict[int, tuple[Tensor, Tensor]], draws: int, generator: torch.Generator
) -> dict[int, Tensor]:
    """s (B, N) per layer, estimated with so many draws of r. prediction: (B, ...), with its graph; blocks: input and
    output (B, N, D) of each block in that graph."""
    total: dict[int, Tensor] = {}
    for _ in range(draws):
        r = torch.randn(prediction.shape, generator=generator).to(prediction)
        grads = torch.autograd.grad(prediction, [out for _, out in blocks.values()], r, retain_graph=True)
        for (layer, (x, out)), grad in zip(blocks.items(), grads, strict=True):
            value = (grad * (out - x)).detach().sum(-1).float().square() / draws
            total[layer] = total[layer] + value if layer in total else value
    return total


def _ridge(backbone: Backbone) -> Ridge:
    return Ridge(backbone.layers, backbone.width, next(backbone.transformer.parameters()).device)
