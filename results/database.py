"""Connections to a SQLite file that others may write at once or that nobody may, and what its errors mean to a user."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

BUSY_TIMEOUT_S = 60.0
MOVE_AWAY = "Move the file away and run the sweep again; nothing else was touched."


def read_only(path: Path) -> sqlite3.Connection:
    """A connection that cannot write. A file in a folder that cannot be written either is opened as immutable: SQLite
    would need to make files beside it. Where records wait in a log beside it, it would not read them then: with the
    index of that log there, as a writer leaves it, they are read as ever, and without it by way of memory."""
    log, index = (path.with_name(f"{path.name}-{end}") for end in ("wal", "shm"))
    waiting = log.is_file() and log.stat().st_size > 0
    if os.access(path.parent, os.W_OK) or (waiting and index.is_file()):
        return _connected(path, "mode=ro")
    return _in_memory(path, log) if waiting else _connected(path, "immutable=1")


def explain(error: Exception, path: Path) -> str:
    """What happened and what to do, for an error of SQLite or of the file system."""
    code = getattr(error, "sqlite_errorcode", -1) & 0xFF  # the primary code below the extended one
    if code == sqlite3.SQLITE_FULL:
        return "the disk is full. Free some space and start again; all records written before are kept."
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return (
            f"another process{_writer(path)} kept the store locked for {BUSY_TIMEOUT_S:.0f} s. End it, or start again "
            "later."
        )
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM) or isinstance(error, OSError):
        return f"the file cannot be opened for writing ({error}). Check the folder and its permissions."
    if isinstance(error, sqlite3.ProgrammingError):
        return f"the store is closed or is used from another thread ({error})."
    if code == sqlite3.SQLITE_IOERR:
        return f"reading or writing failed ({error}). Check the disk; all records written before are kept."
    return f"the file is damaged or is no store ({error}). {MOVE_AWAY}"


def _connected(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.resolve().as_uri()}?{mode}"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)


def _in_memory(path: Path, log: Path) -> sqlite3.Connection:
    memory = sqlite3.connect(":memory:", isolation_level=None)
    with tempfile.TemporaryDirectory() as place:
        for one in (path, log):
            shutil.copy(one, place)
        with closing(sqlite3.connect(Path(place) / path.name)) as copy:
            copy.backup(memory)
    memory.execute("PRAGMA query_only = 1")
    return memory


def _writer(path: Path) -> str:
    """Who opened the store for writing last, as far as it can be read while it is locked."""
    try:
        with closing(read_only(path)) as db:
            row = db.execute("SELECT value FROM meta WHERE name = 'writer'").fetchone()
        return f", perhaps {row[0]}," if row else ""
    except sqlite3.Error:
        return ""
