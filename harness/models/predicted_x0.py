"""The clean image that a sampler predicts (x0) at every step, as latents.

Letters: B batch, C latent channels, h x w latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from harness.patching import wrapped


@contextmanager
def clean_predictions(scheduler: Any) -> Iterator[list[Tensor]]:
    """The list grows by the predicted clean latents of the batch's first sample, (1, C, h, w), at every step of the
    scheduler within the context."""
    seen: list[Tensor] = []
    keeps = _predicts_clean(scheduler)
    name = "convert_model_output" if keeps else "step"

    def watched(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        clean = None if keeps else clean_of(scheduler, *args[:3])
        out = original(*args, **kwargs)
        seen.append((out if clean is None else clean)[:1])
        return out

    with wrapped(scheduler, name, watched):
        yield seen


def _predicts_clean(scheduler: Any) -> bool:
    """Whether it turns predictions into clean latents itself, as DPM-Solver++ and UniPC do; others, such as DEIS, turn
    them into noise by a method of the same name."""
    config = scheduler.config
    return hasattr(scheduler, "convert_model_output") and (
        str(config.get("algorithm_type", "")).endswith("dpmsolver++") or bool(config.get("predict_x0"))
    )


def clean_of(scheduler: Any, prediction: Tensor, timestep: Any, x: Tensor) -> Tensor:
    """The clean latents (B, C, h, w) in noised ones x, by the model's prediction of the same shape: a velocity for flow
    matching schedulers, which have no `alphas_cumprod`; for others what the scheduler's prediction type says."""
    at = int((scheduler.timesteps - timestep).abs().argmin())
    if not hasattr(scheduler, "alphas_cumprod"):
        return x - scheduler.sigmas[at].to(x) * prediction
    kind = scheduler.config.prediction_type
    if kind == "sample":
        return prediction
    if hasattr(scheduler, "is_scale_input_called"):  # its latents are clean ones plus sigma times noise
        sigma = scheduler.sigmas[at].to(x)
        if kind == "v_prediction":
            return x / (sigma**2 + 1) - prediction * sigma / (sigma**2 + 1).sqrt()
        return x - sigma * prediction
    alpha = scheduler.alphas_cumprod[int(timestep)].to(x)
    if kind == "v_prediction":
        return alpha.sqrt() * x - (1 - alpha).sqrt() * prediction
    return (x - (1 - alpha).sqrt() * prediction) / alpha.sqrt()


def unpacked(x: Tensor, vae: Any) -> Tensor:
    """Latents (B, C, h, w) as the decoder takes them: those of models that pack squares of 2 x 2 of them into channels,
    4 C of the decoder's, become (B, C / 4, 2 h, 2 w)."""
    return F.pixel_shuffle(x, 2) if x.shape[1] == 4 * vae.config.latent_channels else x
