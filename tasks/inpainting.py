"""Inpainting: an image, a mask and a prompt in, the image with the masked pixels made anew out.

Untouched pixels are the input's own, in every strategy.

Letters: B cases, S pixels per side, h x w latent size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from harness.errors import UserError
from harness.spec import Case
from harness.task import Task, TaskSettings
from harness.zoo.shapes import scene
from tasks import masks

MARGIN = 0.25  # of the tight square's side, on each side, for context


class InpaintingSettings(TaskSettings):
    strategy: Literal["whole", "crop"] = Field(
        "whole",
        description="whole: every token is generated and the known region blended back at each step "
        "(RegenerateImage); crop: the same on a square around the mask, pasted back (RegenerateCrop)",
    )
    mask_area: float = Field(0.25, gt=0, le=1, description="share of the image that is masked")


class Inpainting(Task):
    """Scenes with one object under a mask, which the caption tells, or a user's own images, masks and captions."""

    name = "inpainting"
    Settings = InpaintingSettings

    def __init__(self, model: Any, *, steps: int, guidance: float, settings: TaskSettings | None = None) -> None:
        super().__init__(model, steps=steps, guidance=guidance, settings=settings)
        self._states: dict[str, tuple[Tensor, ...]] = {}

    @classmethod
    def swept(cls, model: Any) -> dict[str, tuple[Any, ...]]:
        return {"strategy": ("whole", "crop")}

    def cases(self, count: int, prompts: Path | None = None) -> tuple[Case, ...]:
        if prompts is not None:
            raise UserError("inpainting takes no --prompts")
        if self.model.facts.get("scenes") != "shapes":
            raise UserError(f"model {self.model.name!r} brings no images to inpaint of its own")
        scenes = scene.sample("evaluation", range(count))
        images, coverage = scene.render(scenes)
        area = self.settings.mask_area  # type: ignore[attr-defined]
        return tuple(
            _case(i, caption, images[i], _mask(i, scenes, i, coverage[i], area))
            for i, caption in enumerate(scenes.captions())
        )

    def prepare(self, cases: Sequence[Case]) -> None:
        for case in cases:
            if case.prompt not in self._states:
                self._states[case.prompt] = self.encode([case])

    @torch.no_grad()
    def encode(self, cases: Sequence[Case]) -> Any:
        return self.model.encode([case.prompt for case in cases], guided=True)

    @torch.no_grad()
    def generate(self, cases: Sequence[Case]) -> Tensor:
        self.prepare(cases)
        out = torch.stack([case.data["image"] for case in cases])
        windows: dict[int, list[tuple[int, int, int]]] = {}
        for row, case in enumerate(cases):
            if case.data["mask"].any():  # nothing masked: the image is what it was
                top, left, side = self.window(case.data["mask"])
                windows.setdefault(side, []).append((row, top, left))
        for side, places in windows.items():
            cut = [(slice(top, top + side), slice(left, left + side)) for _, top, left in places]
            known = torch.stack([out[row][:, *c] for (row, _, _), c in zip(places, cut, strict=True)])
            mask = torch.stack([cases[row].data["mask"][c] for (row, _, _), c in zip(places, cut, strict=True)])
            made = self._fill([cases[row] for row, _, _ in places], known, mask[:, None])
            for (row, _, _), c, image in zip(places, cut, made, strict=True):
                out[row][:, *c] = image
        return out

    def window(self, mask: Tensor) -> tuple[int, int, int]:
        """(top, left, side) of the square that is generated."""
        if self.settings.strategy == "whole":  # type: ignore[attr-defined]
            return 0, 0, mask.shape[0]
        return masks.square(mask, MARGIN, self._factor)

    @property
    def _factor(self) -> int:
        """Pixels per token side."""
        vae, transformer = self.model.pipeline.vae, self.model.backbone.transformer
        return int(2 ** (len(vae.config.block_out_channels) - 1) * transformer.config.patch_size)

    def _fill(self, cases: Sequence[Case], known: Tensor, mask: Tensor) -> Tensor:
        """Images (B, 3, S, S) in 0..1 with the masked pixels generated. mask: (B, 1, S, S) bool."""
        pipeline, vae = self.model.pipeline, self.model.pipeline.vae
        device, dtype = self.model.device, next(vae.parameters()).dtype
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        clean = vae.encode(known.to(device, dtype) * 2 - 1).latent_dist.mode()
        clean = (clean - shift) * vae.config.scaling_factor  # (B, C, h, w)
        hidden = F.adaptive_max_pool2d(mask.float(), clean.shape[-2:]).to(device, dtype)  # a latent with a masked pixel
        noise = torch.stack(
            [torch.randn(clean.shape[1:], generator=torch.Generator("cpu").manual_seed(c.seed)) for c in cases]
        ).to(device, dtype)

        def blend(step: int, _timestep: Any, latents: Tensor) -> None:
            timesteps = pipeline.scheduler.timesteps
            at = clean
            if step + 1 < len(timesteps):
                at = pipeline.scheduler.add_noise(clean, noise, timesteps[step + 1].expand(len(clean)))
            latents.copy_(hidden * latents + (1 - hidden) * at)

        parts = [torch.cat(part) for part in zip(*(self._states[case.prompt] for case in cases), strict=True)]
        names = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")
        height, width = known.shape[-2:]
        made = pipeline(
            **dict(zip(names, parts, strict=True)),
            negative_prompt=None,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            latents=noise,
            output_type="pt",
            callback=blend,
            **{**self.model.call, "height": height, "width": width},
        ).images
        return torch.where(mask, made.float().cpu(), known)


def _case(index: int, prompt: str, image: Tensor, mask: Tensor) -> Case:
    image = (image * 255).round() / 255  # as a PNG file holds it
    whole = hashlib.sha256((image * 255).byte().numpy().tobytes() + mask.numpy().tobytes()).hexdigest()
    return Case(index, prompt, seed=index, data={"scene": index, "image": image, "mask": mask}, digest=whole)


def _mask(index: int, scenes: scene.Scenes, row: int, coverage: Tensor, area: float) -> Tensor:
    """A mask over one of the scene's objects, of a kind that goes round with the index."""
    rng = np.random.Generator(np.random.Philox(key=[99, index]))
    present = scenes.present[row].nonzero().flatten().tolist()
    quadrant = present[int(rng.integers(len(present)))]
    x, y = scenes.offsets[row, quadrant].tolist()
    half = scene.HALF
    top, left = quadrant // 2 * half, quadrant % 2 * half
    centre = (top + half / 2 + y, left + half / 2 + x)
    kind = masks.KINDS[index % len(masks.KINDS)]
    if kind == "object":
        own = torch.zeros_like(coverage, dtype=torch.bool)
        window = (slice(top, top + half), slice(left, left + half))
        own[window] = coverage[window] > 0.5
        return masks.around(own, area)
    return (masks.box if kind == "box" else masks.brush)(scene.SIZE, area, centre, rng)
