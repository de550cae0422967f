"""What workers on other machines are handed before they begin, as plain data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.registry import load_plugin
from harness.workload import Workload


@dataclass(frozen=True)
class Plugin:
    """A plugin file by its content. digest: sha256 of the source."""

    name: str
    digest: str
    source: bytes


@dataclass(frozen=True)
class Setup:
    """workloads: all of the run, of one model. shared: what all points of the run folder share, as JSON. folder: the
    driver's current one, which relative paths start from. own_device: whether each worker has devices of its own, which
    no other uses."""

    workloads: tuple[Workload, ...]
    shared: dict[str, Any]
    plugins: tuple[Plugin, ...]
    folder: str
    own_device: bool


def plugins_of(paths: Sequence[Path]) -> tuple[Plugin, ...]:
    """Raises UserError for a file that is gone."""
    found = []
    for path in paths:
        try:
            source = path.read_bytes()
        except OSError as error:
            raise UserError(
                f"plugin file {path} cannot be read for the workers: {error.strerror}; restore it"
            ) from error
        found.append(Plugin(path.name, hashlib.sha256(source).hexdigest(), source))
    return tuple(found)


def load(plugins: Sequence[Plugin], folder: Path) -> None:
    """Write plugin files below `folder` and import them. Raises UserError with the file's own error and line."""
    for plugin in plugins:
        path = folder / plugin.digest / plugin.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(plugin.source)
        load_plugin(path)
