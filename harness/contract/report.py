"""What the checks of a method have found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["passed", "failed", "refused", "not checked"]


@dataclass(frozen=True)
class Finding:
    """One check on one family, or with one other method. about: the family's or the other method's name. reason: why
    the outcome is not "passed"."""

    check: str
    about: str
    outcome: Outcome
    reason: str = ""

    def line(self) -> str:
        return f"{self.check}, {self.about}: {self.outcome}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True)
class Report:
    """All findings on one method. families: those of the contract's checks; pairs: one per other method."""

    method: str
    families: tuple[Finding, ...]
    pairs: tuple[Finding, ...]

    @property
    def failed(self) -> Sequence[Finding]:
        return [one for one in (*self.families, *self.pairs) if one.outcome == "failed"]

    @property
    def passed(self) -> bool:
        """Whether nothing failed, and at least one check of a family could run."""
        return not self.failed and any(one.outcome == "passed" for one in self.families)

    def text(self) -> str:
        """What failed, one finding a line, for an assertion's message."""
        return "\n".join(one.line() for one in self.failed) or "no check could run on any family"
