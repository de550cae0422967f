"""Writing a file so that a reader sees the old content or the new one, never half of it."""

from __future__ import annotations

import os
import re
from pathlib import Path


def write_atomic(path: str | Path, content: str | bytes) -> Path:
    """Write `content` (text as UTF-8) to `path` by way of a temporary file beside it; folders are made as needed.

    Raises OSError where the folder cannot be written; the old file is then untouched and no temporary file stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def slug(name: str) -> str:
    """A name that is safe in file names: letters, digits, "_", "-" and inner dots."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "unnamed"
