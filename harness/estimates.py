"""Raw samples as estimates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from results.analysis.statistics import bootstrap, paired_ratio
from results.record import Estimate


def timed(own: Sequence[float], dense: Sequence[float], about: str, *, runs: int = 1) -> dict[str, Estimate]:
    """Latency and its ratio to dense from interleaved pairs of seconds. about: what ran and the clock. runs: how often
    it ran in each sample."""
    whole = bootstrap(np.array(own) / runs, np.median)
    ratio = paired_ratio(np.array(own), np.array(dense))
    return {
        "latency_s": Estimate(
            **whole._asdict(), n=len(own), unit="s", role="cost", better="lower", convention=f"median, {about}"
        ),
        "latency_ratio": Estimate(
            **ratio._asdict(), n=len(own), unit="method / dense", role="cost", better="lower",
            convention=f"median of ratios of interleaved pairs, {about}",
        ),
    }  # fmt: skip
