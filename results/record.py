"""What one operating point left behind: plain data, validated, without torch.

A `Record` is written once and never changed. Everything that people look at (tables, plots, reports) is
drawn from records alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

SCHEMA_VERSION = 2
OUTCOMES = ("failed", "incomplete", "ok")
"""Rising: of two records of one point, the later in this list is kept."""


class CaseFacts(BaseModel):
    """What one image was made from. facts: what the task has to add, such as the area of a mask."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    seed: int
    facts: dict[str, Any] = Field(default_factory=dict)


class Estimate(BaseModel):
    """One measured figure with its uncertainty and its convention.

    `low` and `high` bound a 95 % interval; both are None where the figure is exact (a count).
    `replicates` are the bootstrap values behind the interval. Points of one sweep resample the same
    cases in the same order, so replicate number b of two records may be compared as a pair.
    `values` are those of each image, in the order of the record's cases, for a figure that is their mean; a
    figure of the whole set (FID) has none.
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
    values: tuple[float, ...] = ()
    set_distance: str = Field(
        default="", description='for a distance between sets: "frechet" or "kernel", a blank, and the extractor'
    )

    @property
    def sample_size(self) -> int:
        """n, but 1 for a cost without an interval: what is counted in each step of one image is no sample."""
        return 1 if self.role == "cost" and self.low is None else self.n


class Record(BaseModel):
    """One operating point and what became of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str = Field(min_length=8, description="sha256 of everything that can change a figure of the record")
    sample_key: str = Field(default="", description="the same without the metrics: equal keys have equal images")
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
    n_cases: int = Field(description="number of images")
    cases: tuple[CaseFacts, ...] = Field(default=(), description="one per image; none in records of schema 1")
    outcome: Literal["ok", "incomplete", "failed"] = Field(
        description="incomplete: measured, but a metric could not judge it, or it could not run in a mode of "
        "execution; failed: no figure of it counts"
    )
    reason: str = Field(default="", description="why the outcome is not ok")
    traceback: str = Field(default="", description="of the exception behind the reason")
    estimates: dict[str, Estimate] = Field(default_factory=dict)
    samples: dict[str, list[float]] = Field(default_factory=dict, description="raw samples by name, unit in the name")
    fingerprint: dict[str, str] = Field(default_factory=dict, description="what must match for two records to compare")
    environment: dict[str, str] = Field(default_factory=dict, description="provenance: commit, versions, machine")
    judged: tuple[str, ...] = Field(default=(), description="the estimates that metrics made from the images")
    images: list[str] = Field(default_factory=list, description="paths below the run folder, one per case")
    shown: dict[str, list[str]] = Field(
        default_factory=dict, description="paths of what the task shows beside the images (inputs, masks), by label"
    )
    features: dict[str, str] = Field(default_factory=dict, description="paths of features (N, D), by extractor")
    references: dict[str, str] = Field(
        default_factory=dict,
        description="paths of the features of what distances compare with, by estimate or extractor",
    )
    token_maps: str = Field(default="", description="path of the kept-token maps of the first case")
    started: str = Field(description="ISO 8601, UTC")
    seconds: float = 0.0
    schema_version: int = SCHEMA_VERSION

    @field_validator("reason", "traceback", mode="before")
    @classmethod
    def _storable(cls, value: Any) -> Any:
        """What was raised may hold anything, such as file names that are no Unicode."""
        return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _inside(self) -> Self:
        """What a record names lies in its run folder: it may come from somebody else."""
        lists = (self.images, *self.shown.values(), self.features.values(), self.references.values(), [self.token_maps])
        for name in (self.sample_key, *(path for paths in lists for path in paths)):
            if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or "\0" in name or ":" in name[:2]:
                raise ValueError(f"{name!r} lies outside of the run folder")
        if "/" in self.sample_key:
            raise ValueError(f"{self.sample_key!r} is no name of a folder")
        return self

    def files(self) -> list[str]:
        """The paths of all that lies beside the record in its run folder."""
        shown = [path for paths in self.shown.values() for path in paths]
        maps = [self.token_maps] if self.token_maps else []
        return [*self.images, *shown, *self.features.values(), *self.references.values(), *maps]

    @property
    def hardware(self) -> str:
        """What a latency was measured on: latencies compare only where it is the same."""
        facts = self.environment
        return f"{facts.get('device', self.device)}, {facts.get('threads', '?')} threads"

    @property
    def usable(self) -> bool:
        """Whether its estimates count."""
        return self.outcome != "failed"


def newest(records: Iterable[Record], asked: Collection[str] = ()) -> list[Record]:
    """One record of every point, in the order in which the points came: one whose key is asked for, whether it failed
    or not, else the newest that is usable. Where code has changed, or machines, several stand for one point."""
    found: dict[str, Record] = {}
    for record in records:
        same = [record.method, record.settings, record.task_settings, record.device.partition(":")[0]]
        point = json.dumps(same, sort_keys=True, default=str)
        known = found.get(point)
        if known is None or _rank(record, asked) >= _rank(known, asked):
            found[point] = record
    return list(found.values())


def _rank(record: Record, asked: Collection[str]) -> tuple[bool, bool, str]:
    return record.key in asked, record.usable, record.started


def furthest(records: Iterable[Record]) -> dict[str, Record]:
    """One record of each key: the first that is usable, else the first."""
    found: dict[str, Record] = {}
    for record in records:
        if record.key not in found or (record.usable and not found[record.key].usable):
            found[record.key] = record
    return found


def from_schema_1(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record of schema 1 by today's names. It holds no cases, values per image, features or maps."""
    fields = {name: value for name, value in body.items() if name not in ("cases", "schema_version")}
    return fields | {"n_cases": body["cases"], "schema_version": 1}
