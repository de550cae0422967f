"""What a search for a budget found for one method, and the file that keeps it in the run folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from harness import text
from harness.errors import UserError
from results.analysis.budgets import TOLERANCE

NEAR = 0.05
"""Relative distance within which the closest setting still runs, marked as not met."""


@dataclass(frozen=True)
class Match:
    """What the search found for one method and budget. settings: those given; chosen: all of them, with the strength
    that was found. cost: relative to dense, on calibration cases; strength: None where the method was left out.
    rests_on: digest of what could change the answer; task_settings: the task's, under which it was sought; both are
    empty in files that older versions wrote. reason: why it could not be sought, where the method failed; there is
    no cost then."""

    method: str
    settings: dict[str, Any]
    chosen: dict[str, Any]
    axis: str
    budget: float
    setting: str
    strength: float | int | None
    cost: float | None
    tried: int
    rests_on: str = ""
    task_settings: dict[str, Any] = field(default_factory=dict)
    reason: str = ""

    @property
    def met(self) -> bool:
        return self.cost is not None and abs(self.cost - self.budget) <= TOLERANCE * self.budget

    @property
    def asked(self) -> str:
        """What was asked for: matches that agree in it answer one question under the same settings of the task."""
        return json.dumps([self.question, self.task_settings], sort_keys=True)

    @property
    def question(self) -> str:
        """The same without the task's settings."""
        return question(self.method, self.settings, self.axis, self.budget)

    def __str__(self) -> str:
        if self.reason:
            return f"{self.method}: could not be tuned to {self.axis} {self.budget:g}, and is left out: {self.reason}"
        where = f"{self.method}: {self.axis} {self.cost:.3f} of dense"
        if self.met:
            return f"{where} at {self.setting} {self.strength:.4g} (budget {self.budget:g})"
        return f"{where} is as close as it came to a budget of {self.budget:g}" + (
            f", at {self.setting} {self.strength:.4g}" if self.strength is not None else ": left out"
        )


def question(method: str, settings: dict[str, Any], axis: str, budget: float) -> str:
    return json.dumps([method, settings, axis, budget], sort_keys=True)


def read(path: Path) -> list[Match]:
    """What an earlier search found. Raises UserError for a file that holds something else."""
    held = text.json_of(text.read(path, "the file"), str(path))
    try:
        for one in held:
            one.pop("met")
        return TypeAdapter(list[Match]).validate_python(held)
    except (ValidationError, AttributeError, TypeError, KeyError) as error:
        raise UserError(f"{path} does not hold what a search for budgets found; delete it and start again") from error
