"""The store of one run: a SQLite file in WAL mode, one row per operating point, each row the JSON of its record.

Every write is one transaction, so a process that is killed at any moment leaves a readable store behind, and
several processes may write at once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import pydantic_core
from pydantic import ValidationError

from results.record import SCHEMA_VERSION, Record

BUSY_TIMEOUT_S = 60.0

_SCHEMA = (
    "CREATE TABLE record (key TEXT PRIMARY KEY, outcome TEXT NOT NULL, body TEXT NOT NULL)",
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_PUT_RECORD = (
    "INSERT INTO record VALUES (?, ?, ?)"
    " ON CONFLICT (key) DO UPDATE SET outcome = excluded.outcome, body = excluded.body"
)
_PUT_META = "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"


class StoreError(Exception):
    """The store cannot be read or written. The message names the file and the remedy."""


class Store:
    """The records of one run, by key.

    `Store(path)` opens the file, or creates it and its folder. Use it as a context manager, or call `close`.
    Every method raises StoreError where the file is damaged, is no store, has another schema version, stays
    locked for a minute, or the disk is full.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        try:
            with self._explained():
                self._open()
        except BaseException:
            self._db.close()
            raise

    def put(self, record: Record) -> None:
        """Write the record in one transaction; one with the same key is replaced and keeps its place in the order.

        Infinities and NaN survive, which they do not in pydantic's own JSON. Raises ValueError where the settings
        hold something that JSON cannot.
        """
        body = pydantic_core.to_json(record.model_dump(), inf_nan_mode="constants").decode()
        with self._explained():
            self._db.execute(_PUT_RECORD, (record.key, record.outcome, body))

    def get(self, key: str) -> Record | None:
        """The record of one operating point, or None where there is none."""
        with self._explained():
            row = self._db.execute("SELECT key, body FROM record WHERE key = ?", (key,)).fetchone()
        return self._parse(*row) if row else None

    def keys(self, outcome: str | None = None) -> set[str]:
        """The keys of all records, or of those with one outcome ("ok" or "failed")."""
        with self._explained():
            rows = self._db.execute("SELECT key FROM record WHERE ?1 IS NULL OR outcome = ?1", (outcome,)).fetchall()
        return {key for (key,) in rows}

    def records(self, keys: Iterable[str] | None = None) -> list[Record]:
        """The records in the order of `keys` (those without a record are left out), else all, oldest first."""
        if keys is not None:
            return [record for key in keys if (record := self.get(key)) is not None]
        with self._explained():
            rows = self._db.execute("SELECT key, body FROM record ORDER BY rowid").fetchall()
        return [self._parse(*row) for row in rows]

    def get_meta(self, name: str) -> str | None:
        """A small string kept beside the records, or None."""
        with self._explained():
            row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def set_meta(self, name: str, value: str) -> None:
        """Keep a small string beside the records; the old value is replaced."""
        with self._explained():
            self._db.execute(_PUT_META, (name, value))

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        """Create the tables in a new file, or check that the file is a store of this schema version."""
        self._db.execute("BEGIN IMMEDIATE")  # two processes may create the same store
        try:
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not tables and version == 0:
                for statement in _SCHEMA:
                    self._db.execute(statement)
            elif version != SCHEMA_VERSION:
                raise StoreError(
                    f"{self.path} has schema version {version}, this program reads {SCHEMA_VERSION}: use the "
                    "version of the program that wrote it, or move the file away and run the sweep again. "
                    "Nothing was changed."
                )
            elif not {"record", "meta"} <= tables:
                raise StoreError(f"{self.path} is a database of something else. {_MOVE_AWAY}")
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        if self._db.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            self._db.execute("PRAGMA journal_mode = WAL")

    def _parse(self, key: str, body: str) -> Record:
        try:
            record = Record.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "its JSON"
            raise StoreError(
                f"{self.path}: the record {key} cannot be read ({where}: {first['msg']}). {_MOVE_AWAY}"
            ) from error
        if record.key != key:
            raise StoreError(f"{self.path}: the row {key} holds the record {record.key}. {_MOVE_AWAY}")
        return record

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what SQLite and the file system raise into a StoreError with a remedy."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self.path}: {_explain(error)}") from error


_MOVE_AWAY = "Move the file away and run the sweep again; nothing else was touched."


def _explain(error: Exception) -> str:
    """What happened and what to do, for an error of SQLite or of the file system."""
    code = getattr(error, "sqlite_errorcode", -1) & 0xFF  # the primary code below the extended one
    if code == sqlite3.SQLITE_FULL:
        return "the disk is full. Free some space and start again; all records written before are kept."
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"another process kept the store locked for {BUSY_TIMEOUT_S:.0f} s. End it, or start again later."
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM) or isinstance(error, OSError):
        return f"the file cannot be opened for writing ({error}). Check the folder and its permissions."
    if isinstance(error, sqlite3.ProgrammingError):
        return f"the store is closed or is used from another thread ({error})."
    if code == sqlite3.SQLITE_IOERR:
        return f"reading or writing failed ({error}). Check the disk; all records written before are kept."
    return f"the file is damaged or is no store ({error}). {_MOVE_AWAY}"
