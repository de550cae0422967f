"""Images that metrics judge."""

import numpy as np

from harness.metric import Sample
from harness.spec import Case

WORDS = ("red", "blue", "star", "circle", "a", "and")


def sample(count: int = 3) -> Sample:
    images = np.random.default_rng(1).integers(256, size=(count, 64, 64, 3), dtype=np.uint8)
    return Sample(tuple(Case(i, f"a {WORDS[i]}", seed=i) for i in range(count)), images)
