"""What a user asks of a cluster. Imports nothing of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.errors import UserError


@dataclass(frozen=True)
class Cluster:
    """address: of a Ray cluster, HOST:PORT; None: one on this machine, for this run alone. workers:
    how many at once; None: as many as there is room for. gpus_per_worker: None: 1 with --device cuda, else 0.

    Raises UserError for values that are no good.
    """

    address: str | None = None
    workers: int | None = None
    gpus_per_worker: float | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UserError(f"--workers expects 1 or more, got {self.workers}")
        share = self.gpus_per_worker
        if share is not None and not (0 <= share < 1 or (share >= 1 and share == math.floor(share) < 1024)):
            raise UserError(f"--gpus-per-worker expects a share of one GPU (0.5) or a whole number, got {share:g}")
        if self.address is not None and not self.address.strip():
            raise UserError("--address expects HOST:PORT of a Ray cluster, got an empty text")

    def gpus(self, device: str) -> float:
        """What each worker has of GPUs. Raises UserError where that does not go with the device."""
        kind, _, number = device.partition(":")
        if number:
            raise UserError(f"with --executor ray each worker has GPUs of its own: give --device {kind}, not {device}")
        share = self.gpus_per_worker
        if kind == "cpu":
            if share:
                raise UserError(f"--gpus-per-worker {share:g} goes with --device cuda, and this is --device {device}")
            return 0
        if share == 0:
            raise UserError(f"--device {device} needs GPUs: give --gpus-per-worker 1, or leave it out")
        return 1 if share is None else share


def of_options(
    executor: str, address: str | None, workers: int | None, gpus_per_worker: float | None, isolate: bool = False
) -> Cluster | None:
    """The cluster that options ask for; None: the run stays in this process. Raises UserError for options that do not
    go together."""
    if executor not in ("local", "ray"):
        raise UserError(f"unknown executor {executor!r}: known: local, ray")
    given = {"--address": address, "--workers": workers, "--gpus-per-worker": gpus_per_worker}
    if executor == "local":
        if names := [name for name, value in given.items() if value is not None]:
            raise UserError(f"{', '.join(names)} needs --executor ray")
        return None
    if isolate:
        raise UserError("--isolate is of the local executor; with --executor ray every worker is a process of its own")
    return Cluster(address, workers, gpus_per_worker)
