"""What a task is: it turns cases into images and says what they are made from."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from harness.errors import UserError
from harness.spec import CALIBRATION_SEEDS, Case
from results.record import Estimate

if TYPE_CHECKING:
    from harness.models import Model

_LOG = logging.getLogger(__name__)
_ALL = 1_000_000  # cases, the most that a sweep takes


def tuned_on(cases: Sequence[Case]) -> tuple[Case, ...]:
    """The same cases with seeds that no evaluation starts from."""
    return tuple(replace(case, seed=CALIBRATION_SEEDS + case.index) for case in cases)


class TaskSettings(BaseModel):
    """What varies within a task (how an image is inpainted, how large the masks are). Every combination that a sweep
    asks for has points of its own, dense among them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Task(ABC):
    """One kind of generation. A task object belongs to one model and caches what all points share (text states)."""

    name: ClassVar[str]
    version: ClassVar[int] = 1  # raise it where a change makes other images or cases of the same request
    Settings: ClassVar[type[TaskSettings]] = TaskSettings
    default_model: ClassVar[str] = "shapes"
    default_ratios: ClassVar[tuple[float, ...]] = (0.1, 0.2, 0.3)

    def __init__(self, model: Model, *, steps: int, guidance: float, settings: TaskSettings | None = None) -> None:
        self.model, self.steps, self.guidance = model, steps, guidance
        self.settings = settings if settings is not None else self.Settings()

    @property
    def guided(self) -> bool:
        """Whether the denoiser's batches hold both halves of classifier-free guidance, the unconditional one first."""
        return self.guidance > 1

    @classmethod
    def swept(cls, model: Model, *, own: bool) -> dict[str, tuple[Any, ...]]:
        """The values that a sweep takes on this model where the user names none, by setting. own: whether the cases are
        the user's."""
        return {}

    @classmethod
    def dense_alone(cls, model: Model, given: Mapping[str, Any], settings: TaskSettings) -> bool:
        """Whether a sweep runs only dense at these settings. given: the settings that the user named."""
        return False

    @classmethod
    def reference(cls, data: Path | None) -> Path | None:
        """The folder of real images among the user's own data that metrics may compare with, if there is one."""
        return None

    @abstractmethod
    def cases(self, count: int, prompts: Path | None = None, data: Path | None = None) -> tuple[Case, ...]:
        """The first `count` cases, or all where the user's own are fewer; the same for every operating point. prompts:
        a file of the user's, data: a folder. Raises UserError for bad user data, and for a kind that the task does not
        take."""

    def calibration(
        self, count: int, after: int, prompts: Path | None = None, data: Path | None = None
    ) -> tuple[Case, ...]:
        """`count` cases to tune on, none of which is among the first `after`, with seeds of their own. Of a user's, the
        last ones, to which an evaluation on more cases comes last. Raises UserError where there are none."""
        own = prompts is not None or data is not None
        found = self.cases(_ALL if own else after + count, prompts, data)
        self.spare(len(found), count, after, prompts or data)
        return tuned_on(found[-count:])

    @staticmethod
    def spare(held: int, count: int, after: int, source: Path | None) -> None:
        """Raises UserError where so many cases do not suffice; says which are tuned on. source: of the user's cases."""
        if held < after + count:
            raise UserError(
                f"{source or 'the model'} holds {held} cases, and {after} of a sweep with {count} others to tune on "
                "take more; give more, or lower --cases"
            )
        if source is not None:
            _LOG.warning("the last %d of %d cases are to tune on: evaluate on at most %d", count, held, held - count)

    @abstractmethod
    def prepare(self, cases: Sequence[Case]) -> None:
        """Compute what all points share, once per model."""

    @abstractmethod
    def generate(self, cases: Sequence[Case]) -> Tensor:
        """Images (B, 3, H, W), float in 0..1, of one batch of cases, each with its own seed."""

    @abstractmethod
    def encode(self, cases: Sequence[Case]) -> Any:
        """Run the text encoder on the prompts, uncached; for timing."""

    def batches(self, cases: Sequence[Case], size: int) -> list[list[int]]:
        """Which cases go together, at most `size` at a time."""
        return [list(range(start, min(start + size, len(cases)))) for start in range(0, len(cases), size)]

    def typical(self, cases: Sequence[Case]) -> tuple[Case, str]:
        """The case that costs are measured on, and how it was chosen ("" where all cost the same)."""
        return cases[0], ""

    def alike(self, cases: Sequence[Case]) -> list[int]:
        """Which cases cost as much as the typical one, unless a method looks at the image: all."""
        return list(range(len(cases)))

    def mapped(self, cases: Sequence[Case]) -> Case:
        """The case whose kept tokens are recorded: the first one that generates any."""
        return cases[0]

    def case_facts(self, case: Case) -> dict[str, Any]:
        """What a record should say of one case beside prompt and seed, as JSON."""
        plain = {name: value for name, value in case.data.items() if isinstance(value, (str, int, float, bool))}
        return plain | {name: value.name for name, value in case.data.items() if isinstance(value, Path)}

    def facts(self, cases: Sequence[Case]) -> dict[str, Estimate]:
        """What else a record should say about these cases."""
        return {}

    def shown(self, cases: Sequence[Case]) -> list[tuple[str, Tensor]]:
        """What stands above the generated images in a grid: label and images (N, 3, H, W) in 0..1."""
        return []
