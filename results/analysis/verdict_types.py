"""What a verdict consists of: plain data, for JSON with a schema."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from results.analysis.pareto import Better
from results.tables.formatting import number

SCHEMA_VERSION = 2

Word = Literal["better", "no worse than margin", "worse", "not distinguishable"]
Family = Literal["confirmatory", "exploratory"]
LatencyWord = Literal["faster", "slower", "not distinguishable", "launch-bound", ""]


class Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModeLatency(Plain):
    """A latency in a mode of execution other than eager, in the words of `Cost`."""

    mode: str
    latency: float
    latency_low: float | None = None
    latency_high: float | None = None
    latency_pairs: int = 0
    latency_word: LatencyWord = ""


class Cost(Plain):
    """What a point costs relative to dense. latency: of interleaved pairs in blocks; word: from its interval where
    there are at least 8 pairs, and from the machine's noise floor where it was calibrated; not adjusted. modes: the
    same in modes of execution other than eager, where they were asked for."""

    gmacs: float | None = None
    latency: float | None = None
    latency_low: float | None = None
    latency_high: float | None = None
    latency_pairs: int = 0
    latency_word: LatencyWord = ""
    modes: tuple[ModeLatency, ...] = ()


class Compared(Plain):
    """Method less comparator in one metric, paired by image. relative: to the comparator's mean. seeds: training seeds,
    which are the unit of the interval where there are several. margin: relative, None where none applies. p: the larger
    one of sign flips and of a t-test that allows for skewed differences. p_margin: of
    "worse by the margin or more", one-sided. p_adjusted, p_margin_adjusted: within the family (Holm). settle_images:
    how many images would settle what is not distinguishable, if the truth is what was measured."""

    method: str
    comparator: str
    metric: str
    unit: str
    better: Better
    difference: float
    low: float | None
    high: float | None
    relative: float | None
    p: float | None
    p_adjusted: float | None = None
    n: int
    seeds: int
    one_training: bool
    sd: float | None
    detectable: float | None
    margin: float | None = None
    p_margin: float | None = None
    p_margin_adjusted: float | None = None
    family: Family = "exploratory"
    word: Word = "not distinguishable"
    settle_images: int | None = None
    settle_minutes: float | None = None
    cost: Cost = Cost()

    @property
    def share(self) -> float | None:
        """What one unit of the metric is of the comparator's mean; None where that is not known."""
        return self.relative / self.difference if self.relative else None

    @property
    def text(self) -> str:
        """The verdict in words."""
        if self.word != "not distinguishable":
            return self.word
        images = f"{self.n} image{'s' * (self.n != 1)}"
        return f"not distinguishable with {images} (detectable: {number(self.detectable, 2) or 'unknown'})"


class Rank(Plain):
    """best: the probability of the best mean under resampling of the images, and of training seeds where a point has
    several; with one it is of images alone. low, high: of the ranks that the point may
    have; points with low = 1 share the first place."""

    point: str
    best: float
    low: int
    high: int


class BlockVerdict(Plain):
    """Of one budget or strength."""

    title: str
    to_dense: tuple[Compared, ...] = ()
    to_rival: tuple[Compared, ...] = ()
    ranks: tuple[Rank, ...] = ()


class Tolerance(Plain):
    """A metric within MLPerf's tolerance of dense's or not. within: of a mean over images, what the interval of the
    paired difference says, None where it lies on both sides; of FID, the figures alone."""

    point: str
    metric: str
    value: float
    dense: float
    n: int
    within: bool | None


class Section(Plain):
    """Of the records that share their cases. reference: the mean of dense, in the headline metric. resolution: the
    smallest differences to dense that can be seen, of the sharpest and of the bluntest comparison, relative to dense
    (in the metric's unit for fidelity)."""

    setup: str
    metric: str = ""
    unit: str = ""
    better: Better | None = None
    convention: str = ""
    fidelity: bool = False
    n: int = 0
    dense: float | None = None
    margin: float | None = None
    resolution: tuple[float, float] | None = None
    blocks: tuple[BlockVerdict, ...] = ()
    other_metrics: tuple[Compared, ...] = ()
    tolerances: tuple[Tolerance, ...] = ()
    notes: tuple[str, ...] = ()


class Verdict(Plain):
    schema_version: int = SCHEMA_VERSION
    sections: tuple[Section, ...]
