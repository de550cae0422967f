"""Synthetic records for the tests of `results`: plain factories, no model and no torch."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest

from results import CaseFacts, Estimate, Record, Table
from results.analysis.statistics import Bootstrapped, bootstrap, centred_interval, paired_ratio, resamples

CASES = 24


def make_estimate(value: float | Bootstrapped, **fields: Any) -> Estimate:
    """An estimate from a number or from a bootstrap."""
    figures = value._asdict() if isinstance(value, Bootstrapped) else {"value": value}
    return Estimate(**{"n": CASES, "unit": "", "convention": "made up"} | figures | fields)


def make_record(method: str = "dense", ratio: float | None = None, **fields: Any) -> Record:
    """A record whose key follows from its method, ratio and settings."""
    settings = fields.setdefault("settings", {} if ratio is None else {"ratio": ratio})
    key = hashlib.sha256(json.dumps([method, ratio, settings, fields.get("fingerprint")]).encode()).hexdigest()
    defaults = {
        "key": key, "method": method, "ratio": ratio, "ratio_reached": ratio, "task": "text_to_image",
        "model": "shapes", "device": "cpu", "dtype": "float32", "steps": 20, "n_cases": CASES, "outcome": "ok",
        "fingerprint": {"weights": "abc"}, "started": "2025-01-01T00:00:00Z",
    }  # fmt: skip
    return Record(**defaults | fields)


def measured(method: str, ratio: float | None, speed: float, loss: float, seed: int) -> Record:
    """A record with all costs and two metrics: `speed` is its latency ratio, `loss` spoils the quality."""
    rng = np.random.default_rng(seed)
    dense_s = rng.normal(2.0, 0.05, CASES)
    scores = np.clip(rng.normal(0.95 - loss, 0.05, CASES), 0, 1)
    draws = [0.02 + loss / 4 + rng.normal(0, 0.003) for _ in resamples(CASES)]
    gmacs = 58.2 * (1 - 0.9 * (ratio or 0))
    estimates = {
        "kid-shapes-judge": make_estimate(
            centred_interval(0.02 + loss / 4, draws), role="quality", better="lower",
            unit="kernel distance", convention="shapes judge features, 32 px, against 512 renders",
        ),
        "gmacs": make_estimate(gmacs, role="cost", better="lower", unit="GMACs", n=1,
                               convention="per image and sampling step, CFG halves included, attention counted"),
        "alignment": make_estimate(bootstrap(scores), role="quality", better="higher", unit="share",
                                   convention="share of the caption's facts that the judge sees"),
        "gmacs_paper": make_estimate(gmacs * 0.9, role="cost", unit="GMACs", n=1),
        "latency_s": make_estimate(bootstrap(dense_s * speed, np.median), role="cost", unit="s"),
        "latency_ratio": make_estimate(
            paired_ratio(dense_s * speed * rng.normal(1, 0.03, CASES), dense_s), role="cost", better="lower",
            unit="method / dense", convention="median of interleaved pairs, full image, wall clock",
        ),
        "energy_j": make_estimate(31.0 * speed, role="cost", unit="J"),
        "peak_memory_mb": make_estimate(412.0 - 100 * (ratio or 0), role="cost", better="lower", unit="MB", n=1,
                                        convention="allocated above the weights"),
    }  # fmt: skip
    return make_record(method, ratio, estimates=estimates)


@pytest.fixture
def record():
    """Factory: record(method, ratio, **fields)."""
    return make_record


@pytest.fixture
def estimate():
    """Factory: estimate(value, **fields)."""
    return make_estimate


@pytest.fixture(scope="session")
def sweep() -> list[Record]:
    """Dense, three methods at three ratios, one without a ratio, and one failed point."""
    curves = {"diffcr": 0.3, "uniform": 0.8, "tome": 0.55}
    records = [measured("dense", None, 1.0, 0.0, 0)]
    for index, (method, harm) in enumerate(curves.items()):
        for ratio in (0.1, 0.2, 0.4):
            records.append(measured(method, ratio, 1 - 0.7 * ratio + 0.05 * index, harm * ratio, len(records)))
    records.append(measured("fbcache", None, 0.66, 0.21, len(records)))
    return [*records, make_record("tome", 0.6, outcome="failed", reason="CUDA out of memory | 3 GiB asked for")]


@pytest.fixture(scope="session")
def table(sweep: list[Record]) -> Table:
    """The table of the sweep."""
    return Table(sweep)


def make_judged(method: str, ratio: float | None, values: Any, metric: str = "truth[judge]", **fields: Any) -> Record:
    """A record with values per image of one metric (lower is better), each image from a caption of its own."""
    each = np.asarray(values, dtype=float)
    better = fields.pop("better", "lower")
    unit = fields.pop("unit", "feature distance")
    judged = make_estimate(float(np.nanmean(each)), n=len(each), unit=unit, role="quality", better=better,
                           values=tuple(each.tolist()))  # fmt: skip
    seconds = make_estimate(0.5, unit="s", role="cost")
    gmacs = make_estimate(10.0 * (1 - (ratio or 0)), unit="GMACs", role="cost", better="lower")
    estimates = {metric: judged, "latency_s": seconds, "gmacs": gmacs} | fields.pop("estimates", {})
    cases = tuple(CaseFacts(prompt=f"caption {row}", seed=row) for row in range(len(each)))
    return make_record(method, ratio, estimates=estimates, **{"cases": cases, "n_cases": len(each)} | fields)


@pytest.fixture
def judged():
    """Factory: judged(method, ratio, values, **fields)."""
    return make_judged
