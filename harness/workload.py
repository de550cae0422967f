"""What runs, as plain data that any process can be handed: a workload, which all points of a sweep share, and its
points. A worker opens a workload once (`harness.executors.worker`) and runs points.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter


@dataclass(frozen=True)
class Workload:
    """Everything but the method. Digests and versions stand for what the names mean here and now.

    request: the validated sweep or profile, as JSON, without its methods.
    task_settings: of the task, as JSON.
    weights: digest of the model.
    steps, guidance: of the sampler, resolved.
    depends_on: what all figures rest on, by name: cases, sampler, versions, hardware.
    compares: those of these that must match for two records to compare.
    judged: what figures of metrics rest on, by name.
    environment: provenance, in no key.
    modes: of execution beside eager, in which latency is measured, too.
    """

    request: dict[str, Any]
    task_settings: dict[str, Any]
    weights: str
    steps: int
    guidance: float | None = None
    depends_on: dict[str, str] = field(default_factory=dict)
    compares: dict[str, str] = field(default_factory=dict)
    judged: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    modes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return str(self.request["kind"])

    @cached_property
    def sample_digest(self) -> str:
        """Of what images and costs rest on."""
        return digest([self.task_settings, self.weights, self.steps, self.guidance, self.depends_on, self.compares])

    @cached_property
    def digest(self) -> str:
        """The same, and the metrics and modes."""
        return digest([self.sample_digest, self.judged, *([self.modes] if self.modes else [])])

    @property
    def fingerprint(self) -> dict[str, str]:
        return {"weights": self.weights, **self.compares, **self.judged}


@dataclass(frozen=True)
class Point:
    """A method with its settings on a workload. adapter: digest of its adapter state; "": none. source: digest of the
    method's code. reference: key of the dense point; "": this is it. label: its name for people."""

    workload: Workload
    method: str
    settings: dict[str, Any]
    ratio: float | None
    strength: str
    adapter: str
    source: str
    reference: str = ""
    label: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def _own(self) -> list[Any]:
        return [self.method, self.settings, self.adapter, self.source, self.facts]

    @cached_property
    def sample_key(self) -> str:
        """Equal keys have equal images and costs, latency in further modes apart."""
        return digest([self.workload.sample_digest, *self._own])

    @cached_property
    def key(self) -> str:
        """Equal keys have equal records, timings apart."""
        return digest([self.workload.digest, *self._own])

    @property
    def task_settings(self) -> Mapping[str, Any]:
        return self.workload.task_settings

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Point:
        """Raises pydantic's ValidationError."""
        return TypeAdapter(cls).validate_python(value)


def digest(value: Any) -> str:
    """sha256 of canonical JSON. Raises TypeError for what JSON cannot hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
