"""What a task is: it turns cases into images and says what they are made from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from harness.spec import Case

if TYPE_CHECKING:
    from harness.models import Model


class TaskSettings(BaseModel):
    """What varies within a task (how an image is inpainted, how large the masks are). Every combination that a sweep
    asks for has points of its own, dense among them."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Task(ABC):
    """One kind of generation. A task object belongs to one model and caches what all points share (text states)."""

    name: ClassVar[str]
    Settings: ClassVar[type[TaskSettings]] = TaskSettings

    def __init__(self, model: Model, *, steps: int, guidance: float, settings: TaskSettings | None = None) -> None:
        self.model, self.steps, self.guidance = model, steps, guidance
        self.settings = settings if settings is not None else self.Settings()

    @classmethod
    def swept(cls, model: Model) -> dict[str, tuple[Any, ...]]:
        """The values that a sweep takes on this model where the user names none, by setting."""
        return {}

    @abstractmethod
    def cases(self, count: int, prompts: Path | None = None) -> tuple[Case, ...]:
        """The first `count` cases; the same for every operating point. Raises UserError for bad user data."""

    @abstractmethod
    def prepare(self, cases: Sequence[Case]) -> None:
        """Compute what all points share, once per model."""

    @abstractmethod
    def generate(self, cases: Sequence[Case]) -> Tensor:
        """Images (B, 3, H, W), float in 0..1, of one batch of cases, each with its own seed."""

    @abstractmethod
    def encode(self, cases: Sequence[Case]) -> Any:
        """Run the text encoder on the prompts, uncached; for timing."""
