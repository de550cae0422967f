"""What a comparison of two runs consists of: plain data, for JSON with a schema."""

from __future__ import annotations

from typing import Literal

from results.analysis.pareto import Better
from results.analysis.verdict_types import Plain

SCHEMA_VERSION = 1
State = Literal["holds", "open", "excluded"]


class MetricDifference(Plain):
    """A less B. relative: to B's value. p is None below 8 images. note: why a difference has no interval."""

    metric: str
    unit: str
    better: Better
    a: float
    b: float
    difference: float
    relative: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    n: int = 0
    detectable: float | None = None
    note: str = ""


class CostRatio(Plain):
    """A over B. Latencies are each relative to dense, measured in turn with it, or in seconds where the settings of the
    task differ; the interval is of both."""

    cost: str
    unit: str
    a: float
    b: float
    ratio: float | None
    low: float | None = None
    high: float | None = None
    pairs: int = 0


class Condition(Plain):
    """A bound that A must not be beyond. state: holds (the whole 95 % interval is beyond it), open (some of it is), or
    excluded (none is). It fails unless it is excluded. why: in words."""

    text: str
    state: State
    fails: bool
    why: str


class PointComparison(Plain):
    a: str
    b: str
    key_a: str
    key_b: str
    metrics: tuple[MetricDifference, ...]
    costs: tuple[CostRatio, ...]
    in_one_alone: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    notes: tuple[str, ...] = ()


class Comparison(Plain):
    """differing: what of the two workloads is not the same; empty unless the comparison was forced. provenance:
    commits, versions and machines that are not the same. not_compared: points that one run alone has figures of.
    broken: those that fail in A and not in B, which no bound lets pass."""

    schema_version: int = SCHEMA_VERSION
    a: str
    b: str
    differing: tuple[str, ...] = ()
    provenance: tuple[str, ...] = ()
    not_compared: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    points: tuple[PointComparison, ...]

    @property
    def failed(self) -> bool:
        """Whether a bound is not kept, or a point is broken where there are bounds."""
        conditions = [condition for point in self.points for condition in point.conditions]
        return any(condition.fails for condition in conditions) or bool(conditions and self.broken)
