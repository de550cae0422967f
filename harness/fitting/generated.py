"""Training data without pictures: latents that the dense model itself generates for prompts.

A fit on them learns to do what dense does; it cannot learn more than dense knows. Latent i belongs to a prompt and a
seed of its own, and latents are made in fixed batches, so that an interrupted generation goes on to the same bits.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from harness import text
from harness.errors import UserError
from harness.fitting.shards import Shards
from harness.models import prompting
from harness.training.batches import Batch, drawn, no_text, texts

VERSION = 3  # raise it where other latents come of the same request
SEEDS = 1_000_000_000_000_000  # beyond those of any sweep's cases
_BATCH = 8


def read_prompts(path: Path | None) -> tuple[str, ...]:
    """The prompts of a text file, one per line. Raises UserError where there are none."""
    if path is None:
        raise UserError("--data self generates latents for prompts; give --prompts FILE, one prompt per line")
    if path.suffix == ".json":
        raise UserError(f"{path} is JSON; --data self takes a text file, one prompt per line")
    lines = text.lines(text.read(path, "prompts file"))
    found = tuple(text.prompt(line, f"line {number} of {path}") for number, line in lines)
    if not found:
        raise UserError(f"prompts file {path} is empty; expected one prompt per line")
    return found


class GeneratedData:
    """Latents that `model` generates for prompts with its own steps and guidance, `each` of them per prompt.

    They are kept in `cache`, in shards whose folder is named by all that can change them. `say` hears how long it will
    take, from the time of the first batch, before the others are made. The model must be dense while this is made.
    """

    def __init__(
        self, model: Any, prompts: tuple[str, ...], cache: Path, *, each: int = 1,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:  # fmt: skip
        self.model, self.prompts, self.count = model, prompts, len(prompts) * each
        defaults = model.facts.get("defaults", {})
        self.steps, self.guidance = int(defaults.get("steps", 20)), float(defaults.get("guidance", 4.5))
        key = [
            VERSION, model.digest, prompts, each, self.steps, self.guidance, model.facts.get("call", {}),
            type(model.pipeline.scheduler).__name__, str(next(model.pipeline.transformer.parameters()).dtype),
            model.device.type, _BATCH,
        ]  # fmt: skip
        self.cache = cache / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]
        self.digest, self.shards = self.cache.name, Shards(self.cache, _BATCH)
        prompting.warn_of_long(model.pipeline, prompts, model.call)
        prompting.warn_of_unknown(model.pipeline, prompts)
        self._make(say)
        self._empty = no_text(model)

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """See `harness.training.batches.Data`."""
        pick = torch.randint(self.count, (size,), generator=generator, device=generator.device).tolist()
        return drawn(self.model, self.shards.rows(pick), self._empty, generator)

    def _make(self, say: Callable[[str], None]) -> None:
        """Generate what is not there yet."""
        absent = self.shards.absent(self.count)
        if absent:
            say(f"latents of {self.count} images for the fit: {sum(map(len, absent))} to generate, into {self.cache}")
        for done, samples in enumerate(absent):
            began = time.monotonic()
            self._generate(samples)
            if done == 0 and len(absent) > 1:
                minutes = (time.monotonic() - began) * (len(absent) - 1) / 60
                say(f"about {minutes:.1f} minutes more; interrupted, it goes on where it stopped")

    @torch.no_grad()
    def _generate(self, samples: range) -> None:
        captions = [self.prompts[sample % len(self.prompts)] for sample in samples]
        latents = prompting.sample(
            self.model.pipeline, self.model.encode(captions, guided=True), self.model.call, steps=self.steps,
            guidance=self.guidance, seeds=[SEEDS + sample for sample in samples], output="latent",
        )  # fmt: skip
        if not bool(latents.isfinite().all()):
            raise UserError(f"model {self.model.name!r} generated latents that are not finite; try another --device")
        self.shards.save(samples, {"latents": latents, **texts(self.model, captions)})
