"""Layers and sampling steps that a token method leaves alone, and how much the others must spare in their place."""

from __future__ import annotations

from pydantic import Field

from harness.errors import UserError
from harness.method import RatioSettings
from harness.spec import Step

MOST = 0.9
"""No block spares a larger share of its tokens than this."""
FIRST_LAYERS = 4
"""Exempt layers at the start of methods that need some, chosen on calibration scenes of `shapes`, which has eight."""
_HAIR = 1e-9  # 0.1 * 30 is 3.0000000000000004 in floating point


class ExemptSettings(RatioSettings):
    """Settings of a method that may leave the first and last layers and steps alone."""

    first_layers: int = Field(0, ge=0, description="layers at the start that run on all tokens")
    last_layers: int = Field(0, ge=0, description="layers at the end that run on all tokens")
    first_steps: float = Field(0.0, ge=0.0, le=1.0, description="share of the steps, at the start, with all tokens")
    last_steps: float = Field(0.0, ge=0.0, le=1.0, description="share of the steps, at the end, with all tokens")

    @property
    def everywhere(self) -> bool:
        """Whether no layer and no step is exempt."""
        return not (self.first_layers or self.last_layers or self.first_steps or self.last_steps)

    def layers_of(self, layers: int) -> range:
        """The layers, of so many, that are not exempt."""
        last = max(layers - self.last_layers, 0)
        return range(min(self._first(layers), last), last)

    def steps_of(self, count: int) -> range:
        """The indices of the steps, of so many, that are not exempt."""
        inside = [
            index for index in range(count)
            if self.first_steps * count <= index + _HAIR and index < (1 - self.last_steps) * count - _HAIR
        ]  # fmt: skip
        return range(inside[0], inside[-1] + 1) if inside else range(0)

    def runs(self, step: Step) -> bool:
        """Whether this step is not exempt."""
        return step.index in self.steps_of(step.count)

    def share(self, name: str, layers: int, count: int, start: int = 0) -> float:
        """The share of tokens that a block spares which is not exempt, so that the mean over all layers and the steps
        from `start` on is the ratio. Raises UserError where that is more than it may."""
        steps = sum(index >= start for index in self.steps_of(count))
        return share_of_each(name, self.ratio, len(self.layers_of(layers)) * steps, layers * (count - start))

    def _first(self, layers: int) -> int:
        return self.first_layers


class HalfExemptSettings(ExemptSettings):
    """The same for a method that by default leaves the first layers alone."""

    first_layers: int | None = Field(  # type: ignore[assignment]
        None, ge=0, description="layers at the start that run on all tokens; None: half of them, at most "
        f"{FIRST_LAYERS}",
    )  # fmt: skip

    def _first(self, layers: int) -> int:
        return max(1, min(FIRST_LAYERS, layers // 2)) if self.first_layers is None else self.first_layers


def share_of_each(name: str, ratio: float, running: float, whole: int) -> float:
    """The share of tokens that each of `running` block runs spares, so that the mean over `whole` block runs (layers
    times steps) is `ratio`. Raises UserError where that is more than a block may spare."""
    share = ratio * whole / running if running else float("inf")
    if share > MOST + _HAIR:
        raise UserError(
            f"{name} cannot spare {ratio:g} of the tokens on average: with these exempt layers and steps "
            f"{MOST * running / whole:.3g} is the most"
        )
    return share
