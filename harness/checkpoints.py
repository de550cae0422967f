"""Tensors and facts in one safetensors file; a kill at any moment leaves the old file or the new one."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from harness.errors import UserError
from results.files import part_of

_DAMAGE = (SafetensorError, ValueError, RecursionError, RuntimeError)


class CheckpointError(UserError):
    """A weights file that cannot be read. The message names it and says what to do."""


def save(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write atomically. `facts` is any JSON. Raises OSError where the disk is full or the folder cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    try:
        ready = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        part.touch()
        mode = part.stat().st_mode  # by the umask; safetensors' own is the writer's alone
        save_file(ready, part, metadata={"facts": json.dumps(facts)})
        part.chmod(mode)
        with open(part, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(part, path)
    except SafetensorError as error:
        if (code := re.search(r"os error (\d+)", str(error))) is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts. Raises FileNotFoundError, or CheckpointError for a damaged file."""
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    with opened(path) as handle:
        return {name: handle.get_tensor(name) for name in handle.keys()}, _facts(handle)  # noqa: SIM118


def facts(path: Path) -> dict[str, Any]:
    """The facts alone, without reading tensors. Raises CheckpointError for a damaged file."""
    with opened(path) as handle:
        return _facts(handle)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A file whose tensors are read one by one. Raises CheckpointError where it, or what is read of it, is no good."""
    try:
        with safe_open(path, framework="pt") as handle:
            yield handle
    except _DAMAGE as error:
        raise CheckpointError(f"{path} is damaged ({error}); delete it and make it again") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}); check its permissions, or make it again") from error


def _facts(handle: Any) -> dict[str, Any]:
    found = json.loads((handle.metadata() or {}).get("facts", "{}"))
    if not isinstance(found, dict):
        raise ValueError("its facts are no names and values")
    return found
