"""The diffusion loss of a pipeline, read off its scheduler: rectified flow or noise prediction.

Letters: B batch, C latent channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness.errors import UserError


class Objective:
    """Noised latents, timesteps and targets. steps: sampler steps, which divide the timesteps into regions."""

    def __init__(self, scheduler: Any, steps: int) -> None:
        flows = not hasattr(scheduler, "alphas_cumprod")  # diffusers' flow matching schedulers do nothing else
        self.kind = "flow_prediction" if flows else scheduler.config.prediction_type
        if self.kind not in ("flow_prediction", "epsilon"):
            raise UserError(f"fits know the prediction types flow_prediction and epsilon, not {self.kind!r}")
        self.horizon = scheduler.config.num_train_timesteps
        self.alphas: Tensor | None = None if flows else scheduler.alphas_cumprod
        if flows and scheduler.config.get("use_dynamic_shifting"):
            raise UserError("fits do not know timesteps that shift with the image's size (use_dynamic_shifting)")
        self._scheduler = scheduler
        # (steps,), descending; samplers of the second order name some twice
        self.timesteps = torch.unique_consecutive(torch.as_tensor(self.sampler(steps).timesteps).float())
        if len(self.timesteps) != steps:
            raise UserError(
                f"fits do not know {type(scheduler).__name__}, which takes {len(self.timesteps)} timesteps for {steps} "
                "steps; give the pipeline another scheduler to fit, such as DPMSolverMultistepScheduler"
            )
        self.steps = steps
        # The timesteps nearest to each sampling step: a fit meets what the sampler will visit, as often.
        middle = (self.timesteps[:-1] + self.timesteps[1:]) / 2
        first, last = (1.5 * t - 0.5 * other for t, other in zip(
            self.timesteps[[0, -1]], self.timesteps[[min(1, steps - 1), max(steps - 2, 0)]], strict=True
        ))  # fmt: skip
        self.upper = torch.cat([first[None].clamp(max=self.horizon - 1), middle])  # (steps,)
        self.lower = torch.cat([middle, last[None].clamp(min=0)])

    def sampler(self, steps: int) -> Any:
        """A fresh scheduler of the pipeline's kind that takes so many steps."""
        own = type(self._scheduler).from_config(self._scheduler.config)
        own.set_timesteps(steps)
        return own

    def draw(
        self, count: int, regions: int, generator: torch.Generator, among: Sequence[int] | None = None
    ) -> tuple[Tensor, int]:
        """Training timesteps (count,) of one region, and the index of a sampling step in it. Every sampling step, or
        every one of `among`, is drawn as often as every other."""
        device, steps = generator.device, range(self.steps) if among is None else among
        step = steps[int(torch.randint(len(steps), (1,), generator=generator, device=device))]
        region = step * regions // self.steps
        start, end = (-(-part * self.steps // regions) for part in (region, region + 1))  # its steps: start..end - 1
        index = torch.randint(start, end, (count,), generator=generator, device=device)
        share = torch.rand(count, generator=generator, device=device)
        return torch.lerp(self.lower.to(device)[index], self.upper.to(device)[index], share), step

    def at(self, index: int, count: int) -> Tensor:
        """The timestep of sampling step `index`, (count,)."""
        return self.timesteps[index].expand(count)

    def noised(self, clean: Tensor, timesteps: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Noised latents and the target, both of the shape of `clean`, (B, ...)."""
        if self.kind == "flow_prediction":
            sigma = (timesteps / self.horizon).to(clean.dtype).view(-1, *[1] * (clean.ndim - 1))
            return torch.lerp(clean, noise, sigma), noise - clean
        assert self.alphas is not None
        alpha = self.alphas.to(clean.device)[timesteps.long()].to(clean.dtype).view(-1, *[1] * (clean.ndim - 1))
        return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise, noise
