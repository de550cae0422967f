"""Non-inferiority: is a method worse than a comparator by less than a margin?

"Not distinguishable" is what too few images say of any two methods, so it never means "no loss". No loss is claimed
only where the data exclude a loss as large as a margin that is named beforehand. The margin is a share m of the
comparator's mean, which is known no better than the rest; so the paired differences to (1 + m) times the comparator
(1 - m where higher is better) are tested, in which its uncertainty counts, one-sided at 0.025. Schuirmann (1987) and
the CONSORT extension on non-inferiority (Piaggio et al., 2012).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from results.analysis.paired import Difference
from results.analysis.pareto import Better

MARGIN = 0.01
"""Of the comparator's mean, unless another one is named."""
LEVEL = 0.025

Array = NDArray[np.float64]


def from_limit(
    method: Array, comparator: Array, margin: float, better: Better, difference: Callable[[Array, Array], Difference]
) -> Difference:
    """Method less the worst value that the margin allows. difference: how two arms are compared."""
    return difference(method, comparator * (1 + margin * (1 if better == "lower" else -1)))


def one_sided(found: Difference, better: Better) -> float | None:
    """p of "worse by the margin or more" from the difference to the limit; None where no test was made."""
    if found.p is None:
        return None
    within = found.value < 0 if better == "lower" else found.value > 0
    return found.p / 2 if within else 1 - found.p / 2
