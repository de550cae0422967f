"""What the contract has to know about a family of backbones.

Letters: B batch (CFG halves included), N image tokens, S text and image tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from harness import registry
from harness.backbones.base import Backbone
from harness.backbones.following import track_sampler
from harness.spec import Step

GRID, STEPS, RATIO = (5, 7), 6, 0.3
Macs = Callable[[Mapping[str, Any], Sequence[int] | None], int]
"""(config, image tokens that each layer processes, None for all) -> MACs of a forward at batch 1 on `GRID`."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the contract has to know about a family.

    name: in the registry. about: its title in docs/backbones.md. make: a shrunken instance whose blocks matter (no gate
    near zero). noise: (model, B, (H, W)) -> what the sampler denoises, drawn from the global random state. call:
    (model, noise, timestep) -> arguments of a forward, where the text differs from sample to sample and depends on B
    alone. macs: the hand count. scheduler, timesteps: the pipeline's kind of sampler, and what the pipeline gives to
    its `set_timesteps` for so many steps. guided: whether its batches hold both CFG halves. image_at: which entry of a
    block's output the image tokens are, None where it is a tensor. keys: for joint attention, image keys (B, N) -> all
    keys (B, S). masked: a context in which a block attends to some image tokens (B, N) alone, by default through fused
    attention's mask.
    """

    name: str
    about: str
    make: Callable[[], nn.Module]
    noise: Callable[[Any, int, tuple[int, int]], Tensor]
    call: Callable[[Any, Tensor, Tensor], dict[str, Any]]
    macs: Macs
    scheduler: Callable[[], Any]
    timesteps: Callable[[int], dict[str, Any]] = lambda steps: {"num_inference_steps": steps}
    guided: bool = True
    grid: tuple[int, int] = GRID
    image_at: int | None = None
    keys: Callable[[Tensor], Tensor] | None = None
    masked: Callable[[Family, nn.Module, Tensor], AbstractContextManager[None]] | None = None

    def backbone(self) -> Backbone:
        backbone: Backbone = registry.backbones.get(self.name)(seeded(self.make))
        return backbone

    def forward(self, backbone: Backbone, batch: int = 2, grid: tuple[int, int] | None = None) -> Tensor:
        """One forward at the first step."""
        with torch.random.fork_rng():
            torch.manual_seed(batch)
            x = self.noise(backbone.transformer, batch, grid or self.grid)
        with torch.no_grad(), backbone.at(Step(0, STEPS, 900.0)):
            out: Tensor = backbone.transformer(
                **self.call(backbone.transformer, x, torch.full((batch,), 900.0)), return_dict=False
            )[0]
        return out

    def generate(self, backbone: Backbone, batch: int = 1, seed: int = 0, steps: int = STEPS) -> Tensor:
        """Latents, made as the family's pipeline makes them."""
        scheduler, model = self.scheduler(), backbone.transformer
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            x = self.noise(model, batch, self.grid)
        with torch.no_grad(), track_sampler(backbone, SimpleNamespace(scheduler=scheduler), guided=self.guided):
            scheduler.set_timesteps(**self.timesteps(steps))
            for t in scheduler.timesteps:
                given = torch.cat([x, x]) if self.guided else x
                out = model(**self.call(model, given, t.expand(len(given))), return_dict=False)[0]
                out = out[:, : x.shape[1]]  # without learned variances
                if self.guided:
                    without, with_text = out.chunk(2)
                    out = without + 2.0 * (with_text - without)
                x = scheduler.step(out, t, x, return_dict=False)[0]
        return x


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """A model for inference, the same every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval().requires_grad_(False)


def traces(model: nn.Module) -> list[Any]:
    """All that a method could leave behind in a model, for comparison by equality."""
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    places = [(name, value.data_ptr(), value.requires_grad) for name, value in model.named_parameters()]
    modules = [
        (name, type(module), sorted(vars(module)), id(vars(module).get("processor")),
         len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]  # fmt: skip
    return [[(name, value.tolist()) for name, value in tensors.items()], places, modules]
