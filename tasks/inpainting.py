"""Inpainting: an image, a mask and a prompt in, the image with the masked pixels made anew out.

Untouched pixels are the input's own, in every strategy; nothing behind the mask is seen by any of them.

Letters: B cases, C latent channels, S pixels per side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from harness import registry
from harness.backbones.lazy_pixart import LazyEncoderBackbone
from harness.errors import UserError
from harness.models import prompting
from harness.models.inpainting import diffusers_inpaint, latent_blending
from harness.models.inpainting.regions import Strategy, covered, window
from harness.models.prompt_states import PromptStates
from harness.spec import Case, Step
from harness.task import Task, TaskSettings, tuned_on
from harness.zoo.emoji import held_out
from results.record import Estimate
from tasks import inpainting_cases

_AREA = 0.25  # of the image, under the masks of the model's own images


class InpaintingSettings(TaskSettings):
    strategy: Strategy = Field(
        "whole",
        description="whole: every token is generated (RegenerateImage); native: so, by diffusers' own inpainting "
        "pipeline; crop: a square around the mask is generated, and nothing outside is seen (RegenerateCrop); lazy: "
        "the tokens under the mask alone (Lazy Diffusion)",
    )
    mask_area: float | None = Field(
        None,
        gt=0,
        le=1,
        description=f"share of the image that is masked, for the model's own images ({_AREA:g} by default)",
    )
    encoder_ratio: float = Field(
        0.0, ge=0, le=0.75, description="share of the tokens that are merged (ToMe) in each block of the ViT encoder"
    )
    binarize: bool = Field(False, description="masks from files that are not black and white are cut at one half")


class Inpainting(Task):
    """Scenes with one object under a mask, which the caption tells, held-out pictures of `emoji`, or a user's own
    images, masks and captions."""

    name = "inpainting"
    version = 4  # what samplers add has its cases' seeds; costs are those of the lower median of the masks
    Settings = InpaintingSettings
    default_model = "shapes-inpaint"
    default_ratios = (0.3,)
    settings: InpaintingSettings

    def __init__(self, model: Any, *, steps: int, guidance: float, settings: TaskSettings | None = None) -> None:
        super().__init__(model, steps=steps, guidance=guidance, settings=settings)
        self._states = PromptStates(lambda prompt: self.model.encode([prompt], guided=True))
        if self.settings.strategy not in _strategies(model):
            raise UserError(
                f"model {model.name!r} cannot inpaint with strategy {self.settings.strategy!r}; it can: "
                f"{', '.join(_strategies(model))}"
            )
        if self.settings.encoder_ratio and not _lazy(model):
            raise UserError(f"model {model.name!r} has no image encoder; leave encoder_ratio out")

    @classmethod
    def swept(cls, model: Any, *, own: bool) -> dict[str, tuple[Any, ...]]:
        return {"strategy": _strategies(model), "mask_area": (None if own else _AREA,)}

    @classmethod
    def dense_alone(cls, model: Any, given: Mapping[str, Any], settings: TaskSettings) -> bool:
        """Methods run with the cheapest strategy, unless the user names strategies."""
        return "strategy" not in given and settings.strategy != _strategies(model)[-1]  # type: ignore[attr-defined]

    def cases(self, count: int, prompts: Path | None = None, data: Path | None = None) -> tuple[Case, ...]:
        self._refuse(prompts)
        area = self.settings.mask_area
        if data is not None:
            return self._given(data, slice(count))
        own = self.model.facts.get("scenes")
        if own == held_out.SCENES:
            return inpainting_cases.from_pictures(range(count), area or _AREA)
        if own != "shapes":
            raise UserError(f"model {self.model.name!r} brings no images of its own to inpaint; give --data FOLDER")
        return inpainting_cases.from_scenes("evaluation", range(count), area or _AREA)

    def calibration(
        self, count: int, after: int, prompts: Path | None = None, data: Path | None = None
    ) -> tuple[Case, ...]:
        self._refuse(prompts)
        if data is not None:
            held = inpainting_cases.held(data)
            self.spare(held, count, after, data)
            return tuned_on(self._given(data, slice(held - count, held)))
        if self.model.facts.get("scenes") == held_out.SCENES:
            found = self.cases(held_out.COUNT)
            self.spare(len(found), count, after, None)
            return tuned_on(found[-count:])
        if self.model.facts.get("scenes") != "shapes":
            return super().calibration(count, after, prompts, data)
        return inpainting_cases.from_scenes("calibration", range(count), self.settings.mask_area or _AREA)

    def _refuse(self, prompts: Path | None) -> None:
        if prompts is not None:
            raise UserError("inpainting takes no --prompts; give --data FOLDER with images, masks and captions")

    def _given(self, data: Path, rows: slice) -> tuple[Case, ...]:
        """Cases of a user's folder, in a range of them. Raises UserError."""
        if self.settings.mask_area is not None:
            raise UserError("masks come from --data; leave --mask-area out")
        if self.model.kind in diffusers_inpaint.KINDS:
            diffusers_inpaint.check(self.model.pipeline)
        found = inpainting_cases.from_folder(data, rows, self._side, binarize=self.settings.binarize)
        _masked(found)
        return found

    def prepare(self, cases: Sequence[Case]) -> None:
        if new := self._states.lacking([case.prompt for case in cases]):
            prompting.warn_of_long(self.model.pipeline, new, self.model.call)
            with torch.no_grad():
                self._states.prepare(new)

    @torch.no_grad()
    def encode(self, cases: Sequence[Case]) -> Any:
        return self.model.encode([case.prompt for case in cases], guided=True)

    @torch.no_grad()
    def generate(self, cases: Sequence[Case]) -> Tensor:
        self.prepare(cases)
        out = torch.stack([case.data["image"] for case in cases])
        groups: dict[int, list[int]] = {}
        for row, case in enumerate(cases):
            if count := self.tokens(case):  # nothing masked: the image is what it was
                groups.setdefault(count, []).append(row)
        with self._encoder():
            for rows in groups.values():
                out[rows] = self._fill([cases[row] for row in rows])
        return out

    def batches(self, cases: Sequence[Case], size: int) -> list[list[int]]:
        """Cases that generate equally many tokens go together: one call serves them."""
        order = sorted(range(len(cases)), key=lambda row: self.tokens(cases[row]))
        return [order[start : start + size] for start in range(0, len(order), size)]

    def tokens(self, case: Case) -> int:
        """How many tokens are generated for a case."""
        mask, factor = case.data["mask"], self._factor
        if not mask.any():
            return 0
        if self.settings.strategy == "lazy":
            return int(covered(mask, factor).sum())
        return (window(self.settings.strategy, mask, self._multiple).side // factor) ** 2

    def typical(self, cases: Sequence[Case]) -> tuple[Case, str]:
        order = sorted(_masked(cases), key=self.tokens)
        aside = "" if len(order) == len(cases) else ", empty masks aside"
        return order[(len(order) - 1) // 2], f"on the case with the median number of tokens to generate{aside}"

    def alike(self, cases: Sequence[Case]) -> list[int]:
        tokens = self.tokens(self.typical(cases)[0])
        return [row for row, case in enumerate(cases) if self.tokens(case) == tokens]

    def mapped(self, cases: Sequence[Case]) -> Case:
        return _masked(cases)[0]

    def case_facts(self, case: Case) -> dict[str, Any]:
        share = float(case.data["mask"].float().mean())
        return super().case_facts(case) | {"masked_share": share}

    def facts(self, cases: Sequence[Case]) -> dict[str, Estimate]:
        counts = [self.tokens(case) for case in cases]
        n, empty = len(cases), counts.count(0)
        areas = [float(case.data["mask"].float().mean()) for case in cases]
        note = f"; {empty} with an empty mask come back as they are, at no cost" if empty else ""
        return {
            "tokens": Estimate(
                value=sum(counts) / n, n=n, unit="tokens", convention=f"mean number of generated tokens{note}"
            ),
            "masked_share": Estimate(value=sum(areas) / n, n=n, unit="share", convention="mean share of masked pixels"),
        }

    def shown(self, cases: Sequence[Case]) -> list[tuple[str, Tensor]]:
        images = torch.stack([case.data["image"] for case in cases])
        hidden = torch.stack([case.data["mask"] for case in cases])[:, None]
        return [("true image", images), ("input: mask in white", torch.where(hidden, 1.0, images))]

    @contextmanager
    def _encoder(self) -> Iterator[None]:
        """The encoder, cheaper where the settings say so."""
        if not self.settings.encoder_ratio:
            yield
            return
        tome = registry.methods.get("tome")
        backbone = LazyEncoderBackbone(self.model.pipeline.encoder)
        method = tome(tome.Settings(ratio=self.settings.encoder_ratio))
        backbone.begin([0.0])  # merging draws its destinations anew
        with method.attach(backbone), backbone.at(Step(0, 1, 0.0)):
            yield

    # -- how -------------------------------------------------------------------------------------------------

    @property
    def _patch(self) -> int:
        """Latents per token side: what the denoiser joins, and what is joined into its channels before, as in Flux."""
        vae, config = self.model.pipeline.vae.config, self.model.backbone.transformer.config
        return int(config.patch_size * math.isqrt(config.in_channels // vae.latent_channels))

    @property
    def _scale(self) -> int:
        """Pixels per side of a latent."""
        return int(2 ** (len(self.model.pipeline.vae.config.block_out_channels) - 1))

    @property
    def _factor(self) -> int:
        """Pixels per token side."""
        return self._scale * self._patch

    @property
    def _multiple(self) -> int:
        """What the side and the corner of a crop are multiples of: text-to-image pipelines take no others."""
        return self._factor if _lazy(self.model) else math.lcm(self._factor, 8)

    @property
    def _side(self) -> int:
        """Pixels per side of the images that the model makes: what its call says, or what it was made for."""
        call, pipeline = self.model.call, self.model.pipeline
        if (height := call.get("height")) is not None:
            if (call.get("width") or height) != height:
                raise UserError(
                    f"inpainting takes square images, and {self.model.name!r} makes {height} x {call['width']}"
                )
            return int(height)
        own = getattr(self.model.backbone.transformer.config, "sample_size", None)  # Flux's config names none
        return int((own or pipeline.default_sample_size) * self._scale)

    def _fill(self, cases: Sequence[Case]) -> Tensor:
        """Images (B, 3, S, S) of cases that generate equally many tokens."""
        images, masks = (torch.stack([case.data[name] for case in cases]) for name in ("image", "mask"))
        sources = [torch.Generator().manual_seed(case.seed) for case in cases]  # of the start, and of what samplers add
        call = {
            "generator": sources, **self._states.batch([case.prompt for case in cases]),
            **prompting.prompt_spec(self.model.pipeline).fixed,
            "num_inference_steps": self.steps, "guidance_scale": self.guidance, **self.model.call,
        }  # fmt: skip
        if _lazy(self.model):
            noise = self._noise(sources, images.shape[-1])
            strategy = self.settings.strategy
            return self.model.pipeline(image=images, mask_image=masks, latents=noise, strategy=strategy, **call).images
        windows = [window(self.settings.strategy, mask, self._multiple) for mask in masks]
        cut = torch.stack([where.of(image) for where, image in zip(windows, images, strict=True)])
        hidden = torch.stack([where.of(mask) for where, mask in zip(windows, masks, strict=True)])
        fill = diffusers_inpaint.fill if self.model.kind in diffusers_inpaint.KINDS else latent_blending.fill
        made = fill(self.model.pipeline, cut, hidden, self._noise(sources, cut.shape[-1]), **call)
        for row, where in enumerate(windows):
            where.of(images[row]).copy_(made[row])
        return images

    def _noise(self, sources: Sequence[torch.Generator], side: int) -> Tensor:
        """(B, C, h, w), on the CPU: the same on every device."""
        shape = (self.model.pipeline.vae.config.latent_channels, *(2 * (side // self._scale,)))
        return torch.stack([torch.randn(shape, generator=source) for source in sources])


def _masked(cases: Sequence[Case]) -> list[Case]:
    """Those with something under the mask. Raises UserError where there is none."""
    found = [case for case in cases if case.data["mask"].any()]
    if not found:
        raise UserError(f"the masks of all {len(cases)} cases are empty (black): there is nothing to generate")
    return found


def _lazy(model: Any) -> bool:
    """Whether the model is Lazy Diffusion's."""
    return "LazyPixArt" in model.family.classes


def _strategies(model: Any) -> tuple[Strategy, ...]:
    """What the model can do, the cheapest last. Raises UserError for one that cannot inpaint."""
    if _lazy(model):
        return ("whole", "crop", "lazy")
    if model.kind in diffusers_inpaint.KINDS:
        return ("native", "crop")  # "whole" would be "native" once more
    if "PixArtTransformer2DModel" in model.family.classes:
        return ("whole", "crop")
    able = "LazyInpaintPipeline, PixArtAlphaPipeline, PixArtSigmaPipeline"
    raise UserError(
        f"model {model.name!r} cannot inpaint, as {model.kind or model.family.__name__}; those that can: "
        f"{', '.join(sorted([*able.split(', '), *diffusers_inpaint.KINDS]))}"
    )
