"""Predicted clean latents, from noised ones whose clean ones are known."""

from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from harness.models.predicted_x0 import clean_of, clean_predictions, unpacked


def pair(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clean, noise = torch.randn(2, 2, 4, 6, 6, generator=generator, dtype=torch.float64)
    return clean, noise


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_clean_latents_by_prediction_type(kind: str) -> None:
    scheduler = DDIMScheduler(prediction_type=kind)
    scheduler.set_timesteps(5)
    clean, noise = pair()
    timestep = scheduler.timesteps[2]
    a = scheduler.alphas_cumprod[timestep].double().sqrt()
    b = (1 - scheduler.alphas_cumprod[timestep].double()).sqrt()
    prediction = {"epsilon": noise, "v_prediction": a * noise - b * clean, "sample": clean}[kind]
    found = clean_of(scheduler, prediction, timestep, a * clean + b * noise)
    assert torch.allclose(found, clean, atol=1e-6)


def test_clean_latents_on_a_flow_of_the_samplers_steps() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    clean, noise = pair()
    with clean_predictions(scheduler) as seen:
        for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
            scheduler.step(noise - clean, timestep, (1 - sigma) * clean + sigma * noise)
    assert "step" not in vars(scheduler) and len(seen) == 4
    assert all(one.shape == (1, 4, 6, 6) and torch.allclose(one, clean[:1], atol=1e-6) for one in seen)


def test_a_scheduler_that_predicts_clean_latents_itself() -> None:
    scheduler = DPMSolverMultistepScheduler(prediction_type="sample")
    scheduler.set_timesteps(3)
    clean, noise = pair()
    with clean_predictions(scheduler) as seen:
        x = noise
        for timestep in scheduler.timesteps:
            x = scheduler.step(clean, timestep, x).prev_sample
    assert "convert_model_output" not in vars(scheduler)
    assert len(seen) == 3 and all(torch.equal(one, clean[:1]) for one in seen)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    "name", ["EulerDiscrete", "HeunDiscrete", "DEISMultistep", "UniPCMultistep", "DPMSolverMultistep"]
)
def test_clean_latents_of_samplers_of_either_space(name: str, kind: str) -> None:
    """Those with `scale_model_input` hold clean latents plus sigma times noise."""
    scheduler = getattr(diffusers, f"{name}Scheduler")(prediction_type=kind)
    scheduler.set_timesteps(6)
    clean, noise = (one.float() for one in pair())
    with clean_predictions(scheduler) as seen:
        for place, timestep in enumerate(scheduler.timesteps):
            alpha = scheduler.alphas_cumprod[int(timestep)]
            a, b = alpha.sqrt(), (1 - alpha).sqrt()
            x = a * clean + b * noise
            if hasattr(scheduler, "is_scale_input_called"):
                sigma = scheduler.sigmas[place]
                a, b = 1 / (sigma**2 + 1).sqrt(), sigma / (sigma**2 + 1).sqrt()
                x = clean + sigma * noise
                scheduler.scale_model_input(x, timestep)
            scheduler.step({"epsilon": noise, "v_prediction": a * noise - b * clean}[kind], timestep, x)
    assert len(seen) == len(scheduler.timesteps)
    assert all(torch.allclose(one, clean[:1], atol=2e-3) for one in seen)


def test_packed_latents_are_unpacked_and_others_stay() -> None:
    vae: Any = SimpleNamespace(config=SimpleNamespace(latent_channels=1))
    packed = torch.arange(8.0).view(1, 4, 1, 2)  # channel c of a square is its pixel (c // 2, c % 2)
    assert unpacked(packed, vae).tolist() == [[[[0.0, 2.0, 1.0, 3.0], [4.0, 6.0, 5.0, 7.0]]]]
    assert unpacked(packed[:, :1], vae).shape == (1, 1, 1, 2)
