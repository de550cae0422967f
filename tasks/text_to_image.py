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


class TextToImage(Task):
    """One image per prompt. Prompts come from a text file, one per line, or from the model's own held-out scenes."""

    name = "text-to-image"

    def __init__(self, model: Any, *, steps: int, guidance: float, settings: TaskSettings | None = None) -> None:
        super().__init__(model, steps=steps, guidance=guidance, settings=settings)
        self._states: dict[str, dict[str, Tensor]] = {}
        prompting.known(model.kind)

    @property
    def guided(self) -> bool:
        return prompting.guided(self.model.pipeline, self.guidance)

    def cases(self, count: int, prompts: Path | None = None, data: Path | None = None) -> tuple[Case, ...]:
        if data is not None:
            raise UserError("text-to-image takes no --data; give --prompts FILE, one per line")
        if prompts is not None:
            lines = [line.strip() for line in _read(prompts).splitlines() if line.strip()]
            if len(lines) < count:
                raise UserError(
                    f"{prompts} holds {len(lines)} prompts, but {count} cases were asked for; lower --cases"
                )
            return tuple(Case(i, line, seed=i) for i, line in enumerate(lines[:count]))
        if self.model.facts.get("scenes") != "shapes":
            raise UserError(
                f"model {self.model.name!r} brings no prompts of its own; give --prompts FILE, one per line"
            )
        return _scenes("evaluation", count)

    def calibration(
        self, count: int, after: int, prompts: Path | None = None, data: Path | None = None
    ) -> tuple[Case, ...]:
        own = prompts is not None or self.model.facts.get("scenes") != "shapes"
        return super().calibration(count, after, prompts, data) if own else _scenes("calibration", count)

    def prepare(self, cases: Sequence[Case]) -> None:
        for case in cases:
            if case.prompt not in self._states:
                self._states[case.prompt] = self._encode([case])

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
    return tuple(Case(i, caption, seed=i, data={"scene": i}) for i, caption in enumerate(captions))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"prompts file {path} cannot be read: {error}") from error
