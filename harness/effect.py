"""No silent no-op: what claims to spare something has to change images and cost."""

from __future__ import annotations

import numpy as np

from harness import compose, cost
from harness.errors import MethodFailure
from harness.method import Method
from harness.metric import Sample
from harness.models import adapters
from results.record import Estimate

_ALIKE = 1e-6
"""Relative difference of counts below which they are the same."""


def on_dense(method: Method, sample: Sample, dense: Sample, gmacs: float, reference: float) -> None:
    """A compressing method has to change both the images and the GMACs of dense. reference: dense's GMACs. Raises
    MethodFailure."""
    if not method.compresses or method.ratio == 0:
        return
    if np.array_equal(sample.images, dense.images):
        raise MethodFailure("changed nothing: its images are dense's, pixel for pixel (a silent no-op)")
    if abs(gmacs - reference) <= _ALIKE * reference:
        raise MethodFailure(
            f"changed no cost: {gmacs:.6g} GMACs per image and step, the same as dense (a silent no-op)"
        )


def of_members(method: Method, on: cost.Subject, gmacs: Estimate) -> None:
    """The same for the members of a composition that decide by what they see: one that never acts beside the others
    would pass for a pair that works. Raises MethodFailure."""
    for member in method.members() if len(method.members()) > 1 else ():
        if not member.adaptive or not getattr(member.settings, member.strength, True):  # or is told to do nothing
            continue
        rest = compose.without(method, member)
        alone = cost.counted(on, rest, adapters.state_of(rest, on.model)).gmacs
        if min(gmacs.values or (gmacs.value,)) >= (1 - _ALIKE) * alone:
            raise MethodFailure(
                f"{member.name} changed no cost: {gmacs.value:.6g} GMACs per image and step, as {rest.name} alone "
                "(a silent no-op)"
            )
