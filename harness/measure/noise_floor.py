"""What `calibrate-clock` found out about this machine: by how much latencies of equal work differ on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

FILE = Path("results") / "runs" / "clock.json"
FLOOR = "latency_floor"
"""In a record's environment: the relative distance from 1 below which a latency ratio says nothing."""


def hardware(facts: Mapping[str, str]) -> str:
    """What latencies are comparable on."""
    return f"{facts['device']}, {facts['threads']} threads"


def known(facts: Mapping[str, str], file: Path = FILE) -> dict[str, str]:
    """The floor of the machine with these facts; nothing where it was never calibrated."""
    found = read(file).get(hardware(facts))
    return {} if found is None else {FLOOR: f"{found:.4f}"}


def read(file: Path = FILE) -> dict[str, float]:
    """Floors by hardware; a file that is missing or damaged holds none."""
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        return {str(name): float(value) for name, value in held.items()}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return {}


def keep(facts: Mapping[str, str], floor: float, file: Path = FILE) -> None:
    """Add one machine's floor to the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(read(file) | {hardware(facts): floor}, indent=1), encoding="utf-8")
