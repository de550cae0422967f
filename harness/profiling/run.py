"""`harness.profile`: from a validated profile to a table of costs."""

from __future__ import annotations

from pathlib import Path

from harness.executors.execute import Listener, execute
from harness.measure import energy
from harness.profiling.workload import plans
from harness.sweep import Profile
from results.run import Run


def run(
    profile: Profile, out: Path, *, listener: Listener | None = None, isolate: bool = False, fresh: bool = False
) -> Run:
    """Every method at every batch and size, dense first, in a run folder: a second, identical profile measures nothing
    again. Raises UserError."""
    parts = plans(profile)
    device = parts[0][0].on.device
    if device.type == "cuda" and listener is not None and (reason := energy.absent(device)):
        listener.say(reason)
    return execute(parts, profile.shared(), out, listener=listener, isolate=isolate, fresh=fresh)
