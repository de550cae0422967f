"""Text-to-image: prompts and seeds in, images out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from harness.errors import UserError
from harness.models import prompting
from harness.models.prompt_states import PromptStates
from harness.spec import CALIBRATION_SEEDS, Case
from harness.task import Task, TaskSettings
from harness.zoo.emoji import held_out
from harness.zoo.shapes import scene
from tasks import prompts as own_prompts

_LOG = logging.getLogger(__name__)
Split = Literal["evaluation", "calibration"]
_Cases = Callable[[Split, int], tuple[Case, ...]]


class TextToImage(Task):
    """One image per prompt. Prompts come from a text file, one per line, from MS-COCO's captions file, from a folder of
    images with captions, or from the model's own held-out scenes."""

    name = "text-to-image"
    version = 2  # prompts are encoded with the defaults of the call

    def __init__(self, model: Any, *, steps: int, guidance: float, settings: TaskSettings | None = None) -> None:
        super().__init__(model, steps=steps, guidance=guidance, settings=settings)
        self._states = PromptStates(lambda prompt: self.model.encode([prompt], guided=True))
        prompting.known(model.kind)

    @property
    def guided(self) -> bool:
        return prompting.guided(self.model.pipeline, self.guidance)

    @classmethod
    def reference(cls, data: Path | None) -> Path | None:
        return data

    def cases(self, count: int, prompts: Path | None = None, data: Path | None = None) -> tuple[Case, ...]:
        if data is not None and prompts is not None:
            raise UserError("prompts come from --prompts or from --data, which brings its own; leave one of them out")
        if data is not None:
            return own_prompts.from_folder(data, count)
        if prompts is not None:
            return own_prompts.from_file(prompts, count)
        if self._own is None:
            raise UserError(
                f"model {self.model.name!r} brings no prompts of its own; give --prompts FILE, one per line, or "
                "--data FOLDER"
            )
        return self._own("evaluation", count)

    def calibration(
        self, count: int, after: int, prompts: Path | None = None, data: Path | None = None
    ) -> tuple[Case, ...]:
        if prompts is not None or data is not None or self._own is None:
            return super().calibration(count, after, prompts, data)
        return self._own("calibration", count)

    @property
    def _own(self) -> _Cases | None:
        """What makes the cases that come with the model, if any do."""
        return _OWN.get(str(self.model.facts.get("scenes")))

    def shown(self, cases: Sequence[Case]) -> list[tuple[str, Tensor]]:
        """The true pictures of the captions, where every case has one that can be read."""
        from tasks.metrics.truth import has_truth, pictures_of  # brings what reads pictures

        if not all(map(has_truth, cases)):
            return []
        try:
            images = pictures_of(cases, self._size).images  # (N, H, W, 3)
        except (UserError, ValueError) as error:  # a row of pictures is lacking then; the metric says what is wrong
            _LOG.warning("true pictures are not shown: %s", error)
            return []
        return [("true picture", torch.from_numpy(images).permute(0, 3, 1, 2) / 255)]

    @property
    def _size(self) -> tuple[int, int]:
        """Height and width of the images, in pixels: what the model's call says, or what it was made for."""
        pipeline, call = self.model.pipeline, self.model.call
        own = getattr(self.model.backbone.transformer.config, "sample_size", None)  # Flux's config names none
        side = int(own or pipeline.default_sample_size) * int(pipeline.vae_scale_factor)
        return int(call.get("height") or side), int(call.get("width") or side)

    def prepare(self, cases: Sequence[Case]) -> None:
        if new := self._states.lacking([case.prompt for case in cases]):
            prompting.warn_of_long(self.model.pipeline, new, self.model.call)
            prompting.warn_of_unknown(self.model.pipeline, new)
            with torch.no_grad():
                self._states.prepare(new)

    @torch.no_grad()
    def encode(self, cases: Sequence[Case]) -> Any:
        return self.model.encode([case.prompt for case in cases], guided=True)

    @torch.no_grad()
    def generate(self, cases: Sequence[Case]) -> Tensor:
        self.prepare(cases)
        return prompting.sample(
            self.model.pipeline,
            self._states.batch([case.prompt for case in cases]),
            self.model.call,
            steps=self.steps,
            guidance=self.guidance,
            seeds=[case.seed for case in cases],
        )


def _scenes(split: Split, count: int) -> tuple[Case, ...]:
    captions = scene.sample(split, range(count)).captions()
    first = CALIBRATION_SEEDS if split == "calibration" else 0
    return tuple(
        Case(i, caption, seed=first + i, data={"scene": i, "split": split}) for i, caption in enumerate(captions)
    )


_OWN: dict[str, _Cases] = {"shapes": _scenes, held_out.SCENES: held_out.cases}
"""The cases that come with bundled models, by what their harness.json says of them as `scenes`."""
