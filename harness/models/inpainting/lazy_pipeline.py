"""Lazy Diffusion as a diffusers pipeline: an image, a mask and a prompt in, the masked pixels made anew out.

Letters: B images, S pixels per side, h x w latents, C latent channels, K generated tokens, M seen tokens.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import PixArtSigmaPipeline
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from torch import Tensor

from harness.models.inpainting.regions import GREY, Strategy, Window, covered, places, window
from harness.models.lazy import LazyEncoder, LazyPixArt, at, pack, pick
from harness.tokens import unpack


class LazyInpaintPipeline(PixArtSigmaPipeline):
    """PixArt-Sigma's text side and VAE around a `LazyPixArt` and its `LazyEncoder`.

    Saves and loads as any pipeline folder: `LazyInpaintPipeline.from_pretrained(folder)`.
    """

    def __init__(
        self, tokenizer: Any, text_encoder: Any, vae: Any, transformer: LazyPixArt, scheduler: Any, encoder: LazyEncoder
    ) -> None:
        super().__init__(tokenizer, text_encoder, vae, transformer, scheduler)  # type: ignore[arg-type]
        self.register_modules(encoder=encoder)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **options: Any) -> LazyInpaintPipeline:  # type: ignore[override]
        """As diffusers': our two networks are loaded here, since diffusers loads only classes that it knows."""
        known = {k: options[k] for k in ("dtype", "variant", "use_safetensors", "local_files_only") if k in options}
        own = {"transformer": LazyPixArt, "encoder": LazyEncoder}
        for name, kind in own.items():
            if name not in options:
                options[name] = kind.from_pretrained(Path(folder) / name, **known)
        return super().from_pretrained(folder, **options)

    @property
    def factor(self) -> int:
        """Pixels per token side."""
        return int(self.vae_scale_factor * self.transformer.config.patch_size)

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the present call has both halves of guidance in its batches."""
        return self._guidance_scale > 1

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        prompt: str | list[str] | None = None,
        image: Tensor | None = None,
        mask_image: Tensor | None = None,
        negative_prompt: str = "",
        strategy: Strategy = "lazy",
        num_inference_steps: int = 20,
        guidance_scale: float = 4.5,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        clean_caption: bool = False,
        max_sequence_length: int = 300,
        output_type: str = "pt",
        return_dict: bool = True,
    ) -> Any:
        """Images (B, 3, S, S) in 0..1 whose masked pixels are generated and whose others are the input's own.

        image: (B, 3, S, S) in 0..1 at the model's own size. mask_image: (B, S, S) bool, True is generated. strategy:
        "lazy" generates the masked tokens, "whole" all of the image, "crop" a square around the mask that sees nothing
        outside. latents: the noise of the whole canvas, (B, C, h, w). Raises ValueError for sizes that do not fit, an
        empty mask, or masks that need different numbers of tokens: call those one by one.
        """
        if image is None or mask_image is None:
            raise ValueError("inpainting needs image and mask_image")
        if strategy not in ("whole", "crop", "lazy"):
            raise ValueError(f"strategy {strategy!r} is none of this pipeline's: whole, crop, lazy")
        self._check(image, mask_image)
        device = self._execution_device
        if prompt is not None:
            states = self.encode_prompt(
                prompt, negative_prompt=negative_prompt, device=device, clean_caption=clean_caption,
                max_sequence_length=max_sequence_length,
            )  # fmt: skip
        else:
            states = (
                prompt_embeds, prompt_attention_mask, negative_prompt_embeds, negative_prompt_attention_mask
            )  # fmt: skip
        self._guidance_scale = guidance_scale
        guided = self.do_classifier_free_guidance
        text = torch.cat([states[2], states[0]]) if guided else states[0]
        text_mask = torch.cat([states[3], states[1]]) if guided else states[1]

        windows = [window(strategy, mask, self.factor) for mask in mask_image]
        seen, index = self.regions(strategy, mask_image, windows)
        known, hidden = self.known(image, mask_image, windows)
        context = at(self.context(known, hidden, seen), seen, index)
        patch, channels = self.transformer.config.patch_size, self.transformer.config.in_channels
        side = self.transformer.config.sample_size
        if latents is None:
            latents = torch.randn((len(image), channels, side, side), generator=generator)
        x = pick(pack(latents.to(device, text.dtype), patch), index) * self.scheduler.init_noise_sigma

        self.scheduler.set_timesteps(num_inference_steps, device=device)
        twice = [torch.cat([part, part]) if guided else part for part in (index, context)]
        own_noise = {"generator": generator} if "generator" in signature(self.scheduler.step).parameters else {}
        for timestep in self.scheduler.timesteps:
            inputs = self.scheduler.scale_model_input(torch.cat([x, x]) if guided else x, timestep)
            prediction = self.transformer(
                inputs, encoder_hidden_states=text, encoder_attention_mask=text_mask,
                timestep=timestep.expand(len(inputs)), index=twice[0], context=twice[1],
            )[0][..., : x.shape[-1]]  # fmt: skip
            if guided:
                unconditional, conditional = prediction.chunk(2)
                prediction = unconditional + guidance_scale * (conditional - unconditional)
            x = self.scheduler.step(prediction, timestep, x, return_dict=False, **own_noise)[0]
        images = x if output_type == "latent" else self._paste(image, windows, known, hidden, x, seen, index)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def regions(self, strategy: Strategy, masks: Tensor, windows: Sequence[Window]) -> tuple[Tensor, Tensor]:
        """Places of the seen tokens (B, M) and of those to generate (B, K) on the canvas. masks: (B, S, S) bool."""
        side = self.transformer.config.sample_size // self.transformer.config.patch_size
        seen = [places(where, self.factor, side) for where in windows]
        index = seen
        if strategy == "lazy":
            index = [covered(mask, self.factor).flatten().nonzero().flatten() for mask in masks]
        if len({len(row) for row in index}) > 1:
            raise ValueError("the masks of a batch need different numbers of tokens: call them one by one")
        device = self._execution_device
        return torch.stack(seen).to(device), torch.stack(index).to(device)

    def known(self, image: Tensor, mask: Tensor, windows: Sequence[Window]) -> tuple[Tensor, Tensor]:
        """Latents (B, C, h, w) of the windows, their masked pixels painted over, and the masks there, (B, s, s)."""
        cut = torch.stack([where.of(i) for where, i in zip(windows, image, strict=True)])
        hidden = torch.stack([where.of(m) for where, m in zip(windows, mask, strict=True)])
        pixels = torch.where(hidden[:, None], GREY, cut).to(self._execution_device, self.vae.dtype) * 2 - 1
        return (self.vae.encode(pixels).latent_dist.mode() - self._shift) * self.vae.config.scaling_factor, hidden

    def context(self, known: Tensor, hidden: Tensor, seen: Tensor) -> Tensor:
        """The encoder's tokens (B, M, E) at places seen (B, M)."""
        share = F.avg_pool2d(hidden[:, None].float(), int(self.vae_scale_factor)).to(known)
        tokens = pack(torch.cat([known, share], 1).to(self.encoder.dtype), self.transformer.config.patch_size)
        return self.encoder(tokens, seen)

    def _paste(
        self, image: Tensor, windows: Sequence[Window], known: Tensor, hidden: Tensor, x: Tensor, seen: Tensor,
        index: Tensor,
    ) -> Tensor:  # fmt: skip
        """The images with their masked pixels decoded from generated tokens x (B, K, C p p); what is known of the
        others goes through the decoder with them, for their sake."""
        patch = self.transformer.config.patch_size
        masked = covered(hidden, self.factor).flatten(1)[..., None].to(x.device)  # (B, M, 1)
        tokens = pack(known.to(x.dtype), patch)
        place = torch.searchsorted(seen, index)[..., None].expand(-1, -1, tokens.shape[-1])
        tokens = torch.where(masked, tokens.scatter(1, place, x), tokens)
        latents = unpack(tokens, patch, (known.shape[-2], known.shape[-1])).to(self.vae.dtype)
        pixels = self.vae.decode(latents / self.vae.config.scaling_factor + self._shift).sample
        pixels = (pixels.float() / 2 + 0.5).clamp(0, 1).to(image)
        out = image.clone()
        for row, where in enumerate(windows):
            place_of = where.of(out[row])
            place_of.copy_(torch.where(hidden[row].to(out.device), pixels[row], place_of))
        return out

    @property
    def _shift(self) -> float:
        return getattr(self.vae.config, "shift_factor", None) or 0.0

    def _check(self, image: Tensor, mask: Tensor) -> None:
        side = self.transformer.config.sample_size * int(self.vae_scale_factor)
        if image.shape[-2:] != (side, side):
            raise ValueError(f"expected images of {side} x {side} pixels, got {tuple(image.shape[-2:])}")
        if mask.dtype != torch.bool or mask.shape != (len(image), side, side):
            raise ValueError(
                f"expected masks ({len(image)}, {side}, {side}) bool, got {tuple(mask.shape)} {mask.dtype}"
            )
        if not mask.flatten(1).any(1).all():
            raise ValueError("a mask is empty: there is nothing to generate")
