"""A loaded model: its pipeline, what is known of it without loading the weights, and its adapters."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from harness import checkpoints
from harness.backbones.base import Backbone
from harness.errors import UserError
from harness.leftovers import Snapshot
from harness.registry import methods
from harness.spec import State
from harness.sweep import validated


@dataclass
class Model:
    """A pipeline, loaded when it is first needed: a finished sweep is drawn again without it.

    digest: sha256 over all weight and config files, "" where there is no folder to read. kind, scheduler: the names of
    the pipeline's and the scheduler's class. labels: names of the classes that the pipeline is conditioned on, if any.
    `pipeline` raises UserError for weights that cannot be loaded.
    """

    name: str
    open: Callable[[], Any]
    family: type[Backbone]
    digest: str
    scheduler: str = ""
    kind: str = ""
    labels: dict[int, str] = field(default_factory=dict)
    device: torch.device = torch.device("cpu")
    facts: dict[str, Any] = field(default_factory=dict)
    adapters: tuple[Path, ...] = ()
    _digests: dict[tuple[Path, int, int], str] = field(default_factory=dict, repr=False)
    _untouched: Snapshot | None = field(default=None, repr=False)

    @cached_property
    def pipeline(self) -> Any:
        return self.open()

    @cached_property
    def backbone(self) -> Backbone:
        return self.family(self.pipeline.transformer)

    @property
    def _parts(self) -> dict[str, Any]:
        return {"pipeline": self.pipeline, **self.pipeline.components}

    def remember(self) -> None:
        """Look at the pipeline before anything is put on it, for `left_behind`."""
        self._untouched = self._untouched or Snapshot.of(self._parts)

    def left_behind(self) -> list[str]:
        """What differs in the pipeline from when it was remembered, in words; it is then loaded anew when it is next
        needed."""
        if self._untouched is None or not (changes := self._untouched.changes(self._parts)):
            return []
        self.forget()
        return changes

    def forget(self) -> None:
        """Load the pipeline anew when it is next needed; a damaged one need not stay beside it."""
        self._untouched = None
        for name in ("pipeline", "backbone"):
            vars(self).pop(name, None)
        gc.collect()

    @property
    def modules(self) -> list[torch.nn.Module]:
        return [c for c in self.pipeline.components.values() if isinstance(c, torch.nn.Module)]

    @cached_property
    def call(self) -> dict[str, Any]:
        """Extra arguments of the pipeline's call, but for a negative prompt, which `encode` takes."""
        return {name: value for name, value in self.facts.get("call", {}).items() if name != "negative_prompt"}

    @property
    def negative_prompt(self) -> str:
        """What guidance leads away from."""
        return str(self.facts.get("call", {}).get("negative_prompt", ""))

    @torch.no_grad()
    def encode(self, prompts: list[str], guided: bool = False) -> dict[str, torch.Tensor]:
        """Prompt states by the names of the pipeline's arguments, see `harness.models.prompting.encode`."""
        from harness.models import prompting

        return prompting.encode(self.pipeline, prompts, self.call, guided, self.negative_prompt)

    @property
    def brings_data(self) -> bool:
        """Whether fits have training data where none are given: the scenes that a zoo model was made from."""
        return self.facts.get("scenes") == "shapes" or bool(self.facts.get("inpaints"))

    def adapter_files(self) -> dict[str, Path]:
        """Adapter states by name; an earlier folder wins. Folders that are not there yet hold none."""
        found: dict[str, Path] = {}
        for folder in self.adapters:
            for path in sorted(folder.glob("*.safetensors")):
                found.setdefault(path.stem, path)
        return found

    def fitted(self, method: str) -> list[dict[str, Any]]:
        """The settings of every adapter that this method has here. Raises UserError for a damaged file."""
        read = ((path, self._facts(path)) for path in self.adapter_files().values())
        saved = {p: facts["settings"] for p, facts in read if facts.get("method") == method and "settings" in facts}
        # settings that came after a fit have their defaults
        kind = methods.get(method).Settings
        return [validated(kind, one, f"adapter {path}").model_dump(mode="json") for path, one in saved.items()]

    def adapter_digest(self, name: str) -> str:
        """The digest of an adapter state, whose tensors are not read. Raises UserError as `adapter` does."""
        path = self._adapter_path(name)
        status = path.stat()
        stamp = (path, status.st_mtime_ns, status.st_size)
        if stamp not in self._digests:
            self._check(path, self._facts(path))
            self._digests[stamp] = hashlib.sha256(path.read_bytes()).hexdigest()
        return self._digests[stamp]

    def adapter(self, name: str) -> State:
        """An adapter state. Raises UserError where there is none, or where it was fitted on another model."""
        path = self._adapter_path(name)
        try:
            tensors, facts = checkpoints.load(path)
        except checkpoints.CheckpointError as error:
            raise UserError(str(error)) from error
        self._check(path, facts)
        return State(tensors, facts)

    def _adapter_path(self, name: str) -> Path:
        path = next((p for folder in self.adapters if (p := folder / f"{name}.safetensors").is_file()), None)
        if path is None:
            known = ", ".join(self.adapter_files()) or "none"
            raise UserError(f"model {self.name!r} has no adapter {name!r}; fitted ones: {known}")
        return path

    def _facts(self, path: Path) -> dict[str, Any]:
        try:
            return checkpoints.facts(path)
        except checkpoints.CheckpointError as error:
            raise UserError(str(error)) from error

    def _check(self, path: Path, facts: dict[str, Any]) -> None:
        made_for = facts.get("model_digest")
        if self.digest and made_for not in (None, self.digest):
            raise UserError(
                f"adapter {path} was fitted on another model (digest {str(made_for)[:12]}, this one is "
                f"{self.digest[:12]}); fit it again with `python -m harness fit`"
            )
