"""The store of one run: a SQLite file in WAL mode, one row per operating point, each row the JSON of its record.

Every write is one transaction, so a process that is killed at any moment leaves a readable store behind, and
several processes may write at once. Cases, which many records share, are kept once.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import pydantic_core
from pydantic import TypeAdapter, ValidationError

from results import database
from results.record import OUTCOMES, SCHEMA_VERSION, CaseFacts, Record, from_schema_1

PROGRAM = "dit-efficiency-harness"

_SCHEMA = (
    "CREATE TABLE record (key TEXT PRIMARY KEY, outcome TEXT NOT NULL, sample_key TEXT NOT NULL, body TEXT NOT NULL)",
    "CREATE INDEX by_sample ON record (sample_key)",
    "CREATE TABLE cases (digest TEXT PRIMARY KEY, body TEXT NOT NULL)",
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_RISING = " ".join(OUTCOMES)
_PUT_RECORD = (
    "INSERT INTO record VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET"
    " outcome = excluded.outcome, sample_key = excluded.sample_key, body = excluded.body"
    f" WHERE instr('{_RISING}', excluded.outcome) >= instr('{_RISING}', record.outcome)"
)
_PUT_META = "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
_CASES = TypeAdapter(tuple[CaseFacts, ...])


class StoreError(Exception):
    """The store cannot be read or written. The message names the file and the remedy."""


class Store:
    """The records of one run, by key.

    `Store(path)` opens the file, or creates it and its folder; with `read_only`, an existing file is opened and never
    written to, one of schema 1 too. `schema` is the version of the file. Use it as a context manager, or call `close`.
    Every method raises StoreError where the file is damaged, is no store, has a schema that this program cannot read
    (or write), stays locked for a minute, or the disk is full.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        self.path, self.schema = Path(path), SCHEMA_VERSION
        self._cases: dict[str, tuple[CaseFacts, ...]] = {}
        with self._explained():
            if read_only:
                if not self.path.is_file():
                    raise StoreError(f"no store at {self.path}")
                self._db = database.read_only(self.path)
            else:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._db = sqlite3.connect(self.path, timeout=database.BUSY_TIMEOUT_S, isolation_level=None)
        try:
            with self._explained():
                self._check() if read_only else self._open()
        except BaseException:
            self._db.close()
            raise

    def put(self, record: Record) -> None:
        """Write the record in one transaction; one with the same key is replaced and keeps its place in the order. A
        failed one replaces none that did not fail, and an incomplete one none that is ok: what was measured stays.

        Infinities and NaN survive, which they do not in pydantic's own JSON. Raises ValueError where the settings
        hold something that JSON cannot.
        """
        cases = _CASES.dump_json(record.cases)
        digest = hashlib.sha256(cases).hexdigest() if record.cases else ""
        fields = record.model_dump(exclude={"cases"}) | {"cases": digest}
        body = pydantic_core.to_json(fields, inf_nan_mode="constants").decode()
        with self._explained(), self._transaction():
            if digest:
                self._db.execute("INSERT OR IGNORE INTO cases VALUES (?, ?)", (digest, cases.decode()))
            self._db.execute(_PUT_RECORD, (record.key, record.outcome, record.sample_key, body))

    def get(self, key: str) -> Record | None:
        """The record of one operating point, or None where there is none."""
        with self._explained():
            row = self._db.execute("SELECT key, body FROM record WHERE key = ?", (key,)).fetchone()
        return self._parse(*row) if row else None

    def of_sample(self, sample_key: str) -> Record | None:
        """The newest usable record whose images and costs are those of this sample key, or None."""
        if self.schema < SCHEMA_VERSION or not sample_key:
            return None
        query = "SELECT key, body FROM record WHERE sample_key = ? AND outcome != 'failed' ORDER BY rowid DESC"
        with self._explained():
            row = self._db.execute(query, (sample_key,)).fetchone()
        return self._parse(*row) if row else None

    def keys(self, outcome: str | None = None) -> set[str]:
        """The keys of all records, or of those with one outcome ("ok" or "failed")."""
        with self._explained():
            rows = self._db.execute("SELECT key FROM record WHERE ?1 IS NULL OR outcome = ?1", (outcome,)).fetchall()
        return {key for (key,) in rows}

    def stamps(self) -> list[tuple[str, str, str]]:
        """Key, sample key and digest of every record, oldest first: what tells whether one came or changed."""
        sample = "sample_key" if self.schema == SCHEMA_VERSION else "''"
        with self._explained():
            rows = self._db.execute(f"SELECT key, {sample}, body FROM record ORDER BY rowid").fetchall()
        return [(key, own, hashlib.sha256(body.encode()).hexdigest()) for key, own, body in rows]

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
        with self._transaction():  # two processes may create the same store
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if not self._tables() and version == 0:
                for statement in _SCHEMA:
                    self._db.execute(statement)
            else:
                self._check()
                if self.schema != SCHEMA_VERSION:
                    raise StoreError(
                        f"{self.path} has schema version {self.schema}, which this program reads but does not write: "
                        "give another --out. Nothing was changed."
                    )
            self._db.execute(_PUT_META, ("program", f"{PROGRAM}, schema {SCHEMA_VERSION}"))
            self._db.execute(_PUT_META, ("writer", _me()))
        if self._db.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            self._db.execute("PRAGMA journal_mode = WAL")

    def _check(self) -> None:
        """Whether this program can read the file. Raises StoreError."""
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            has = "meta" in self._tables()
            row = self._db.execute("SELECT value FROM meta WHERE name = 'program'").fetchone() if has else None
            raise StoreError(
                f"{self.path} has schema version {version}, this program reads up to {SCHEMA_VERSION}: open it with a "
                f"version of {PROGRAM} that reads schema {version}{f' (written by {row[0]})' if row else ''}, for "
                "instance the newest one. Nothing was changed."
            )
        if version < 1 or not {"record", "meta"} <= self._tables():
            raise StoreError(f"{self.path} is a database of something else. {database.MOVE_AWAY}")
        self.schema = version

    def _tables(self) -> set[str]:
        return {name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}

    def _parse(self, key: str, body: str) -> Record:
        try:
            fields = json.loads(body)
            if self.schema == 1:
                fields = from_schema_1(fields)
            else:
                fields["cases"] = self._case_facts(fields["cases"])
            record = Record.model_validate(fields)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "its JSON"
            raise self._unreadable(key, f"{where}: {first['msg']}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._unreadable(key, f"its JSON: {type(error).__name__}: {error}") from error
        if record.key != key:
            raise StoreError(f"{self.path}: the row {key} holds the record {record.key}. {database.MOVE_AWAY}")
        return record

    def _case_facts(self, digest: str) -> tuple[CaseFacts, ...]:
        if digest and digest not in self._cases:
            with self._explained():
                row = self._db.execute("SELECT body FROM cases WHERE digest = ?", (digest,)).fetchone()
            if row is None:
                raise ValueError(f"its cases {digest[:12]} are missing")
            self._cases[digest] = _CASES.validate_json(row[0])
        return self._cases.get(digest, ())

    def _unreadable(self, key: str, why: str) -> StoreError:
        return StoreError(f"{self.path}: the record {key} cannot be read ({why}). {database.MOVE_AWAY}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what SQLite and the file system raise into a StoreError with a remedy."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self.path}: {database.explain(error, self.path)}") from error


def _me() -> str:
    """Who writes, for one who waits."""
    return f"process {os.getpid()} on {socket.gethostname()} ({' '.join(map(os.path.basename, sys.argv[:2]))})"
