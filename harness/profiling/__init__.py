"""What methods cost on one denoiser step of a model, whose weights may be random."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from harness.measure import energy, environment
from harness.plan import PACKAGES
from harness.profiling.request import Profile, build
from harness.profiling.step import Setup, inputs, record, settings_of
from harness.profiling.workload import candidates, subject
from results.record import Record
from results.tables.table import Table

__all__ = ["Profile", "build", "profile", "run"]


def profile(**values: Any) -> Table:
    """`harness.profile(model="random:pixart-sigma-512", methods=["tome"], ratios=[0.2], device="meta")`. Raises
    UserError for values that are no good; a method that fails has a failed record."""
    return run(build(values))


def run(
    asked: Profile, told: Callable[[str], None] = lambda _: None, done: Callable[[Record], None] = lambda _: None
) -> Table:
    """Every method at every batch and size, dense first. told: gets one line on what is missing here."""
    on = subject(asked)
    chosen = candidates(asked, on)
    if on.device.type == "cuda" and (reason := energy.absent(on.device)):
        told(reason)
    surroundings = environment.describe(on.device)
    code = environment.code_digest(PACKAGES)
    setups = [
        Setup(batch, size, on.text_tokens, asked.mask_tokens)
        for size in (asked.size or (on.size,))
        for batch in asked.batch
    ]
    for size in {setup.size for setup in setups}:  # what the family refuses is told before anything is measured
        inputs(on.backbone, Setup(1, size, on.text_tokens, asked.mask_tokens))
    records = []
    for setup in setups:
        dense: Record | None = None
        for candidate in chosen:
            prints = {
                "code": code, "weights": on.digest, "state": candidate.told, "text_tokens": on.text_source,
                "rounds": str(asked.rounds),
            }  # fmt: skip
            key = {
                **prints, **settings_of(setup), "method": candidate.method.name,
                "settings": candidate.method.settings.model_dump(mode="json"), "model": asked.model,
                "device": asked.device, "dtype": asked.dtype,
            }  # fmt: skip
            facts = {
                "key": hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest(),
                "fingerprint": prints, "environment": surroundings,
            }  # fmt: skip
            made = record(asked, on, candidate, setup, dense, facts)
            dense = dense or made
            records.append(made)
            done(made)
    return Table(records)
