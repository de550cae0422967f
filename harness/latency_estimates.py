"""Estimates of latency, of its ratio to dense and to its limit, and of throughput, from seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from harness.measure.busy import busy
from results.analysis.statistics import block_size, bootstrap, paired_ratio
from results.record import Estimate

_WARM_BATCHES = 3
"""As many as it takes for a throughput."""


def timed(
    own: Sequence[float], dense: Sequence[float], about: str, *, runs: int = 1, limit: Sequence[float] = ()
) -> dict[str, Estimate]:
    """Latency and its ratio to dense from interleaved rounds of seconds. about: what ran and the clock. runs: how often
    it ran in each sample. limit: seconds of the method's limit, see `harness.limit`: one for each round, or one for
    each block of rounds."""
    size = block_size(len(own))
    seconds = np.array(own) / runs
    whole = paired_ratio(seconds, np.ones(len(own)), block=size)._replace(value=float(np.median(seconds)))
    ratio = paired_ratio(np.array(own), np.array(dense), block=size)
    blocks = f"{-(-len(own) // size)} blocks of {size} pair{'s' * (size > 1)}"
    beside = {}
    if limit:
        least_s, dense_s, own_s = np.array(limit), np.array(dense), np.array(own)
        if len(limit) < len(own):
            dense_s, own_s = (_by_block(one, size) for one in (dense_s, own_s))
        among = size if len(limit) == len(own) else 1
        least = paired_ratio(least_s, dense_s, block=among)
        over = paired_ratio(own_s, least_s, block=among)
        beside = {
            "latency_limit_ratio": Estimate(
                **least._asdict(), n=len(limit), unit="limit / dense",
                convention="limit: dense on as many tokens in every block, none chosen or moved; over "
                f"{blocks}; {about}",
            ),
            "latency_overhead": Estimate(
                **over._asdict(), n=len(limit), unit="method / limit",
                convention=f"what the method takes beyond its limit; median over {blocks}, {about}",
            ),
        }  # fmt: skip
    return beside | {
        "latency_s": Estimate(
            **whole._asdict(), n=len(own), unit="s", role="cost", better="lower",
            convention=f"median, its interval over {blocks}, {about}",
        ),
        "latency_ratio": Estimate(
            **ratio._asdict(), n=len(own), unit="method / dense", role="cost", better="lower",
            convention=f"ratio of interleaved pairs, median over {blocks}, {about}",
        ),
    }  # fmt: skip


def _by_block(values: np.ndarray, size: int) -> np.ndarray:
    """Medians of blocks of so many."""
    return np.array([np.median(values[at : at + size]) for at in range(0, len(values), size)])


def throughput(seconds: Sequence[float], images: int, batch: int) -> dict[str, Estimate]:
    """Images per second in the generation pass, from its full batches but the first, which warms up; none from fewer
    than three. seconds: of every batch."""
    warm = np.array(seconds[1 : images // batch])
    if len(warm) < _WARM_BATCHES:
        return {}
    spread = bootstrap(batch / warm, np.median)
    about = f"median over full batches of {batch} in the generation pass but the first, not interleaved with dense"
    return {"throughput_images_s": Estimate(**spread._asdict(), n=len(warm), unit="images/s", convention=about)}


def worked(run: Callable[[], object], device: torch.device, about: str) -> dict[str, Estimate]:
    """`device_busy`, where the device can tell; a method may be on."""
    share = busy(run, device)
    if share is None:
        return {}
    return {"device_busy": Estimate(
        value=share, n=1, unit="share of wall time",
        convention=f"time in kernels over wall time; below 0.75 the latency is the host's, launch-bound; {about}",
    )}  # fmt: skip
