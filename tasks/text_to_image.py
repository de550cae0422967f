"""Text-to-image: prompts and seeds in, images out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.errors import UserError
from harness.models import prompting
from harness.spec import Case
from harness.task import Task, TaskSettings
from harness.zoo.shapes import scene
from tasks import prompts as own_prompts


class TextToImage(Task):
    """One image per prompt. Prompts come from a text file, one per line, from MS-COCO's captions file, from a folder of
    images with captions, or from the model's own held-out scenes."""

    name = "text-to-image"

    def __init__(self, model: Any, *, steps: int, guidance: float, settings: TaskSettings | None = None) -> None:
        super().__init__(model, steps=steps, guidance=guidance, settings=settings)
        self._states: dict[str, dict[str, Tensor]] = {}
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
        if self.model.facts.get("scenes") != "shapes":
            raise UserError(
                f"model {self.model.name!r} brings no prompts of its own; give --prompts FILE, one per line, or "
                "--data FOLDER"
            )
        return _scenes("evaluation", count)

    def calibration(
        self, count: int, after: int, prompts: Path | None = None, data: Path | None = None
    ) -> tuple[Case, ...]:
        own = prompts is not None or data is not None or self.model.facts.get("scenes") != "shapes"
        return super().calibration(count, after, prompts, data) if own else _scenes("calibration", count)

    def prepare(self, cases: Sequence[Case]) -> None:
        if new := {case.prompt: case for case in cases if case.prompt not in self._states}:
            prompting.warn_of_long(self.model.pipeline, list(new), self.model.call)
            self._states |= {prompt: self._encode([case]) for prompt, case in new.items()}

    def encode(self, cases: Sequence[Case]) -> Any:
        return self._encode(cases)

    @torch.no_grad()
    def _encode(self, cases: Sequence[Case]) -> dict[str, Tensor]:
        """Prompt states as the pipeline takes them."""
        return self.model.encode([case.prompt for case in cases], guided=True)

    @torch.no_grad()
    def generate(self, cases: Sequence[Case]) -> Tensor:
        self.prepare(cases)
        states = [self._states[case.prompt] for case in cases]
        return self.model.pipeline(
            **{name: torch.cat([state[name] for state in states]) for name in states[0]},
            **prompting.way_of(self.model.pipeline).fixed,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            # seeds on the CPU: the same noise on every device
            generator=[torch.Generator("cpu").manual_seed(case.seed) for case in cases],
            output_type="pt",
            **self.model.call,
        ).images


def _scenes(split: scene.Split, count: int) -> tuple[Case, ...]:
    captions = scene.sample(split, range(count)).captions()
    return tuple(Case(i, caption, seed=i, data={"scene": i, "split": split}) for i, caption in enumerate(captions))
