"""`python -m harness calibrate-clock`."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.options import Device


def calibrate_clock(
    *,
    model: Annotated[str, typer.Option(help="Zoo model, pipeline folder or hub id whose images are timed.")] = "shapes",
    device: Device = None,
    sessions: Annotated[int, typer.Option(min=10, help="Measurements of dense against itself.")] = 20,
    rounds: Annotated[int, typer.Option(min=2, help="Pairs in each, in six blocks.")] = 12,
) -> None:
    """Measure by how much latencies of equal work differ on this machine, and keep it for verdicts: a latency ratio
    that is nearer to 1 says nothing. Do it while the machine does nothing else."""
    from harness import clock, config, plan
    from harness.cli.progress import Bar
    from harness.compose import method_class
    from harness.measure import environment, noise_floor
    from harness.sweep import DENSE

    sweep = config.build({"methods": [DENSE], "model": model, "cases": 2, "device": device or "cpu"})
    opened = plan.make(sweep)[0].opened
    opened.load()
    opened.task.prepare(opened.cases)
    with Bar("sessions") as bar:
        bar.begin(sessions)
        found = clock.calibrate(
            opened.subject, method_class(DENSE)(), sessions, rounds, lambda: bar.progress("dense against dense", 1)
        )
    facts = environment.describe(opened.model.device)
    noise_floor.keep(facts, found.floor)
    print(
        f"{noise_floor.hardware(facts)}: dense against itself, {found.sessions} times {rounds} pairs: 95 % within "
        f"{100 * found.floor:.1f} % of 1; intervals {100 * found.width:.1f} % wide at the median; "
        f"{100 * found.inside:.0f} % of them hold 1"
    )
    print(f"kept in {noise_floor.FILE}: a latency ratio within {100 * found.floor:.1f} % of 1 says nothing here")
