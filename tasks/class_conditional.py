"""Class-conditional generation: class labels and seeds in, images out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness import text
from harness.errors import UserError, unknown
from harness.patching import wrapped
from harness.spec import CALIBRATION_SEEDS, Case
from harness.task import Task, TaskSettings

_CLASSES = 1000  # DiTPipeline's label for "no class" is 1000, whatever the model


class ClassConditional(Task):
    """One image per case of a `DiTPipeline`: the classes in turn, evenly, or those of a file, one class name or number
    per line."""

    name = "class-conditional"
    version = 2  # what samplers add has its cases' seeds
    default_model = ""

    def __init__(self, model: Any, *, steps: int, guidance: float, settings: TaskSettings | None = None) -> None:
        super().__init__(model, steps=steps, guidance=guidance, settings=settings)
        if model.kind != "DiTPipeline":
            raise UserError(
                f"model {model.name!r} ({model.kind or 'no pipeline folder'}) is not conditioned on classes; expected "
                "a DiTPipeline, or another --task"
            )
        if model.negative_prompt:
            raise UserError(f"model {model.name!r} has a negative_prompt in its harness.json, and classes know none")

    @property
    def guided(self) -> bool:
        return False  # its batches hold the conditional half first, which methods are not made for

    def cases(self, count: int, prompts: Path | None = None, data: Path | None = None) -> tuple[Case, ...]:
        if data is not None:
            raise UserError("class-conditional takes no --data; give --prompts FILE, one class name or number per line")
        if prompts is None:
            return self._cases(_evenly(count))
        lines = [line for _, line in text.lines(text.read(prompts, "classes file"))]
        return self._cases(self._label(line, prompts) for line in lines[:count])

    def calibration(
        self, count: int, after: int, prompts: Path | None = None, data: Path | None = None
    ) -> tuple[Case, ...]:
        """Evenly over the classes, too, with seeds of their own."""
        if prompts is not None or data is not None:
            return super().calibration(count, after, prompts, data)
        return self._cases(_evenly(count), first_seed=CALIBRATION_SEEDS)

    def _cases(self, labels: Iterable[int], first_seed: int = 0) -> tuple[Case, ...]:
        names = self.model.labels
        return tuple(
            Case(i, names.get(label, f"class {label}"), seed=first_seed + i, data={"label": label}, digest=str(label))
            for i, label in enumerate(labels)
        )

    def _label(self, name: str, source: Path) -> int:
        """A class number. Raises UserError for a name or a number that no class has."""
        if name.isascii() and name.isdecimal():
            if len(name) <= len(str(_CLASSES)) and int(name) < _CLASSES:
                return int(name)
            raise UserError(f"{source}: class numbers run from 0 to {_CLASSES - 1}, got {name:.20}")
        if not self.model.labels:
            raise UserError(f"{source}: model {self.model.name!r} names no classes; give numbers, got {name!r}")
        names = {label: all_names.lower() for label, all_names in self.model.labels.items()}
        parts = {label: [one.strip() for one in all_names.split(",")] for label, all_names in names.items()}
        own = name.lower()
        found = [label for label, whole in names.items() if whole == own]
        found = found or [label for label, some in parts.items() if own in some]
        if not found:
            raise unknown(f"class in {source}", name, [one for some in parts.values() for one in some])
        if len(found) > 1:
            meant = ", ".join(f"{label} ({self.model.labels[label]})" for label in found)
            raise UserError(f"{source}: {name!r} is the name of several classes: {meant}; give the number")
        return found[0]

    def prepare(self, cases: Sequence[Case]) -> None:
        pass  # labels are all there is to tell

    def encode(self, cases: Sequence[Case]) -> Tensor:
        """The labels (B,): there is no text encoder."""
        return torch.tensor([case.data["label"] for case in cases], device=self.model.device)

    @torch.no_grad()
    def generate(self, cases: Sequence[Case]) -> Tensor:
        sources = [torch.Generator("cpu").manual_seed(case.seed) for case in cases]

        def step(original: Callable[..., Any], prediction: Tensor, *args: Any, **kwargs: Any) -> Any:
            """The pipeline gives its sampler no generators; under guidance it reads the first half alone."""
            return original(prediction, *args, generator=sources * (len(prediction) // len(sources)), **kwargs)

        scheduler = self.model.pipeline.scheduler
        adds_noise = "generator" in signature(scheduler.step).parameters
        with wrapped(scheduler, "step", step) if adds_noise else nullcontext():
            images: Tensor = self.model.pipeline(
                class_labels=[case.data["label"] for case in cases],
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
                generator=sources,
                output_type="pt",
                **self.model.call,
            ).images
        return images


def _evenly(count: int) -> list[int]:
    """`count` labels spread over all classes, each as often as every other, give or take one."""
    return [i * _CLASSES // count for i in range(count)]
