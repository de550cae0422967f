"""Run folders of dense and points beside it, for comparisons and recommendations."""

import numpy as np
import pytest

from results.run_folder import STORE
from results.store import Store

N = 64
RNG = np.random.default_rng(0)
DENSE = RNG.gamma(9, 2 / 3, N)
NOISE = RNG.normal(0, 0.1, N)
NOISE -= NOISE.mean()
PAIRS = [1.0 + 0.01 * (k % 3) for k in range(12)]


@pytest.fixture(name="run")
def made(tmp_path, judged, estimate):
    """Factory: a run folder of dense and these points, (method, ratio, values, fields)."""

    def make(name, *points, cases="c", **fields):
        with Store(tmp_path / name / STORE) as store:
            for method, ratio, values, *more in (("dense", None, DENSE), *points):
                ratio_s = 1 - (ratio or 0)
                estimates = {
                    "latency_ratio": estimate(
                        ratio_s, low=ratio_s, high=ratio_s, n=12, unit="method / dense", role="cost"
                    )
                } | fields.get("estimates", {})
                samples = {"latency_dense_s": PAIRS, "latency_method_s": [ratio_s * s for s in PAIRS]}
                about = {"samples": samples, "fingerprint": {"weights": "w", "cases": cases}} | (
                    more[0] if more else {}
                )
                store.put(judged(method, ratio, values, **about, estimates=estimates))
        return str(tmp_path / name)

    return make


def by_blocks(rng, judged, estimate, median=1.0):
    """A record of 48 pairs in blocks of eight that differ from each other more than the pairs within them."""
    ratios = median * np.exp(np.repeat(rng.normal(0, 0.02, 6), 8) + rng.normal(0, 0.004, 48))
    value = estimate(
        float(np.median(np.median(ratios.reshape(6, 8), axis=1))), n=48, unit="method / dense", role="cost"
    )
    samples = {"latency_dense_s": [1.0] * 48, "latency_method_s": ratios.tolist()}
    return judged("a", 0.2, DENSE[:8], estimates={"latency_ratio": value}, samples=samples)
