"""How many images would settle a comparison, and what they cost."""

from __future__ import annotations

import math

from results.analysis.paired import Difference, standard_errors
from results.analysis.pareto import Better
from results.record import Record

MOST = 10_000_000  # images, above which nobody makes them


def images_to_settle(
    difference: Difference, from_limit: Difference | None, better: Better, tests: int = 1
) -> int | None:
    """The fewest images that give a verdict 8 times in 10, if the truth is what was measured: "better" or "worse" of
    the difference, or "no worse than margin" of the difference to the limit, each at a level of 0.05 over as many
    tests. None where no number would, or where the spread is unknown."""
    needed = [_images(difference, 0.05 / tests)]
    if from_limit is not None and (from_limit.value < 0) == (better == "lower"):
        needed.append(_images(from_limit, 0.05 / tests))
    found = [one for one in needed if one is not None]
    return min(found) if found else None


def _images(difference: Difference, level: float) -> int | None:
    """From the spread of the differences, Student's quantiles included, so that the answer is right at small n, too."""
    if difference.sd is None or difference.value == 0 or difference.sd == 0:
        return None
    effect = abs(difference.value) / difference.sd
    per_case = difference.n / difference.clusters
    count = 8
    for _ in range(20):  # the quantiles depend on the count, ever more weakly
        nearer = max(8, math.ceil((standard_errors(count, level) / effect) ** 2))
        if nearer in (count, count - 1) or nearer > MOST:
            count = nearer
            break
        count = nearer
    return math.ceil(count * per_case) if count <= MOST else None


def seconds_per_image(record: Record) -> float | None:
    """From the generation pass where it has a throughput, else the latency of one image, else the whole point's time
    over its images; None where nothing was measured."""
    if found := record.estimates.get("throughput_images_s"):
        return 1 / found.value
    if found := record.estimates.get("latency_s"):
        return found.value
    return record.seconds / record.n_cases if record.seconds else None
