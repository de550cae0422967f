"""What one operating point left behind: plain data, validated, without torch.

A `Record` is written once and never changed. Everything that people look at (tables, plots, reports) is
drawn from records alone.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1


class Estimate(BaseModel):
    """One measured figure with its uncertainty and its convention.

    `low` and `high` bound a 95 % interval; both are None where the figure is exact (a count).
    `replicates` are the bootstrap values behind the interval. Points of one sweep resample the same
    cases in the same order, so replicate number b of two records may be compared as a pair.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float | None = None
    high: float | None = None
    n: int = Field(ge=0, description="sample size behind the value")
    unit: str
    convention: str = Field(description="how it was counted, in one phrase")
    role: Literal["quality", "cost", "info"] = "info"
    better: Literal["lower", "higher"] | None = None
    replicates: tuple[float, ...] = ()


class Record(BaseModel):
    """One operating point and what became of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str = Field(min_length=8, description="sha256 of the point's canonical JSON")
    method: str
    settings: dict[str, Any] = Field(default_factory=dict)
    ratio: float | None = Field(default=None, description="compression ratio asked for; None: the method has none")
    ratio_reached: float | None = None
    strength: str = Field(default="ratio", description="the setting that makes the method cheaper as it grows; or none")
    task: str
    task_settings: dict[str, Any] = Field(default_factory=dict)
    model: str
    device: str
    dtype: str
    steps: int
    cases: int
    outcome: Literal["ok", "incomplete", "failed"] = Field(
        description="incomplete: measured, but a metric could not judge it; failed: no figure of it counts"
    )
    reason: str = Field(default="", description="why the outcome is not ok")
    estimates: dict[str, Estimate] = Field(default_factory=dict)
    samples: dict[str, list[float]] = Field(default_factory=dict, description="raw samples by name, unit in the name")
    fingerprint: dict[str, str] = Field(default_factory=dict, description="what must match for two records to compare")
    environment: dict[str, str] = Field(default_factory=dict)
    images: list[str] = Field(default_factory=list, description="paths below the run folder, one per case")
    started: str = Field(description="ISO 8601, UTC")
    seconds: float = 0.0
    schema_version: int = SCHEMA_VERSION

    @property
    def usable(self) -> bool:
        """Whether its estimates count."""
        return self.outcome != "failed"
