"""Tiny random pipelines of the true classes: text encoders, VAE and all."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, StableDiffusion3Pipeline
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from harness.zoo.shapes import networks, scene

PIXELS = {"height": 40, "width": 56}  # 5 x 7 tokens
TEXT_TOKENS = 16
PROMPT = "a large red plain circle top left"


def clip(kind: type[Any], width: int, projected: int) -> Any:
    return kind(
        CLIPTextConfig(
            vocab_size=len(scene.vocabulary()) + 3, hidden_size=width, intermediate_size=2 * width,
            projection_dim=projected, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=networks.TEXT_TOKENS, bos_token_id=2, eos_token_id=1, pad_token_id=0,
        )
    ).eval()  # fmt: skip


def vae() -> AutoencoderKL:
    """40 x 56 pixels to 10 x 14 latents of four channels."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 16, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=64,
        mid_block_add_attention=False, scaling_factor=1.5, shift_factor=0.06,
    ).eval()  # fmt: skip


def sd3(transformer: nn.Module) -> StableDiffusion3Pipeline:
    """joint_attention_dim 96, pooled_projection_dim 20, four latent channels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=vae(),
            text_encoder=clip(CLIPTextModelWithProjection, 24, 10),
            tokenizer=networks.tokenizer(),
            text_encoder_2=clip(CLIPTextModelWithProjection, 24, 10),
            tokenizer_2=networks.tokenizer(),
            text_encoder_3=networks.text_encoder().eval(),
            tokenizer_3=networks.tokenizer(),
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def flux(transformer: nn.Module) -> FluxPipeline:
    """joint_attention_dim 96, pooled_projection_dim 20, four latent channels: 16 per token."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = FluxPipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=vae(),
            text_encoder=clip(CLIPTextModel, 20, 20),
            tokenizer=networks.tokenizer(),
            text_encoder_2=networks.text_encoder().eval(),
            tokenizer_2=networks.tokenizer(),
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: Any, seed: int = 0, steps: int = 4, guidance: float = 3.5, **more: Any) -> Any:
    """One image, (H, W, 3) in 0..1, or latents."""
    call = {"output_type": "np", **PIXELS, "max_sequence_length": TEXT_TOKENS, **more}
    return pipeline(
        PROMPT,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(seed),
        **call,
    ).images[0]
