"""What all fits share, whatever they fit."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.method import MethodSettings


class FitOptions(MethodSettings):
    """What all fits share."""

    steps: int = Field(
        1200, ge=1, le=100_000_000, description="optimizer steps in all, split evenly over the target ratios"
    )
    stage: float = Field(
        0.9,
        ge=0.005,
        le=0.9,
        description="distance of the target ratios, each of which leaves an adapter; 0.9: one target for all steps",
    )
    by_product: float = Field(
        0.025, ge=0, description="distance of the learned mean ratios that leave an adapter on the way; 0: none"
    )
    batch: int = Field(8, ge=1, le=100_000, description="images per step")
    lr: float = Field(1e-3, gt=0, description="base learning rate (LoRA)")
    clip_apart: bool = Field(
        True,
        description="LoRA, routers and ratios have gradient norm limits of their own, so that a loss on one of them "
        "never shortens the others' steps",
    )
    lora_rank: int = Field(16, ge=0, le=65_536, description="rank of the LoRA; 0: none")
    lora_targets: str = Field(
        "", description="the linear layers it sits on, by the ends of their names, with commas (to_q,to_v); empty: all"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the forward passes; what is trained stays float32"
    )
    distill: float = Field(1.0, ge=0, description="weight of the distance to the dense model's prediction")
    scenes: int = Field(2048, ge=64, le=100_000_000, description="training scenes whose latents are cached")
    images_per_prompt: int = Field(
        1, ge=1, le=10_000, description="latents generated for each prompt, with --data self"
    )
    save_seconds: float = Field(60.0, ge=0, description="time between checkpoints")
