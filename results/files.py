"""Writing a file so that a reader sees the old content or the new one, never half of it."""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import socket
from pathlib import Path

_PART = ".part"
_COUNT = itertools.count()
HOST = re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname()) or "host"


def part_of(path: Path) -> Path:
    """A name beside `path` that no other writer uses, to write to before the file takes its place."""
    return path.with_name(f".{path.name}.{HOST}.{os.getpid()}.{next(_COUNT)}{_PART}")


def write_atomic(path: str | Path, content: str | bytes) -> Path:
    """Write `content` (text as UTF-8) to `path` by way of a temporary file beside it; folders are made as needed.

    Raises OSError where the folder cannot be written; the old file is then untouched and no temporary file stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def remove_parts(folder: Path) -> None:
    """Remove what writers on this machine that were killed have left below a folder."""
    for path in folder.rglob(f".*{_PART}"):
        host, _, rest = path.name.removesuffix(_PART).rpartition(".")[0].rpartition(".")
        if host.endswith(f".{HOST}") and rest.isdecimal() and not runs(int(rest)):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def runs(process: int) -> bool:
    """Whether a process of this machine is there."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True


def check_writable(folder: Path, folders: tuple[str, ...] = (), files: tuple[str, ...] = ()) -> None:
    """Make the folder, and see that files can be written there. folders, files: names in it that are to be such.
    Raises OSError, which names the path."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in folders:
        if (folder / name).exists() and not (folder / name).is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file is where a folder belongs", str(folder / name))
    for name in files:
        if (folder / name).is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder is where a file belongs", str(folder / name))
    probe = part_of(folder / "probe")
    try:
        probe.write_bytes(b"\0")
    finally:
        probe.unlink(missing_ok=True)


def link_or_copy(source: str, target: str) -> str:
    """A hard link where the file system has them, else a copy: for files that are never changed in place."""
    try:
        os.link(source, target)
    except FileExistsError:
        pass  # somebody else was faster
    except OSError:
        shutil.copy2(source, target)
    return target


def slug(name: str) -> str:
    """A name that is safe in file names: letters, digits, "_", "-" and inner dots."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "unnamed"
