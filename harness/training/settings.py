"""What a training was asked for, beside its checkpoints, so that none goes on with other settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import text
from harness.errors import UserError
from results.files import write_atomic


def same(path: Path, asked: Mapping[str, Any]) -> None:
    """Write down what is trained, before the first checkpoint. Raises UserError where `path` says something else."""
    if not path.exists():
        write_atomic(path, json.dumps(dict(asked), indent=2) + "\n")
        return
    held = text.json_of(text.read(path, "settings of the training"), str(path))
    if other := [f"{word}={held.get(word)}, not {value}" for word, value in asked.items() if held.get(word) != value]:
        raise UserError(
            f"{path.parent} holds a training with other settings ({'; '.join(other)}): give these, or another --work"
        )
