"""A run folder: the store, and beside it what is too large for a database row.

    store.sqlite  log.jsonl
    images/<sample key>/00000.png ...          generated images, one per case
    images/<sample key>/shown/<label>/...      what the task shows beside them
    images/<sample key>/features-<name>.npy    features (N, D), float16
    images/<sample key>/token-maps.npz         see `results.run_files.TokenMaps`
    references/<name>-<digest>.npy             features (M, D) of what distances compare with, float16
    tables/  plots/                            drawn from the above, at any time

Nothing here needs torch or a model.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from results import at_work
from results.files import check_writable, remove_parts, write_atomic
from results.record import Record, newest
from results.run_files import RunFiles
from results.store import Store, StoreError

STORE = "store.sqlite"
ASKED = "asked"  # the keys of the points of the last run, as JSON, in the store
_LOG = "log.jsonl"
_FOLDERS = ("images", "references", "tables", "plots")


class RunError(StoreError):
    """A folder that is no run, or one of another workload. The message names it and the remedy."""


class RunFolder(RunFiles):
    """One run folder, open. Use it as a context manager, or call `close`.

    Raises RunError for a folder that is no run, and StoreError as the store does.
    """

    def __init__(self, path: str | Path, store: Store) -> None:
        self.path, self.store = Path(path), store

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """An existing run, read-only; one of schema 1 too."""
        path = Path(path)
        if not path.is_dir():
            raise RunError(f"no run folder at {path}; expected a folder that holds {STORE}")
        if not (path / STORE).is_file():
            raise RunError(f"{path} is no run folder: it holds no {STORE}")
        return cls(path, Store(path / STORE, read_only=True))

    @classmethod
    def grow(cls, path: str | Path, workload: Mapping[str, Any]) -> Self:
        """A run to add points to, made where there is none. workload: what all of its points share, as JSON; a folder
        of another one is refused, with what differs. So is one in which not everything can be written that a run
        writes."""
        path = Path(path)
        try:
            check_writable(path, folders=_FOLDERS, files=(STORE, _LOG))
        except OSError as error:
            raise RunError(
                f"the run folder {path} cannot be written: {error.filename}: {error.strerror}; give another --out"
            ) from error
        store = Store(path / STORE)
        try:
            if (found := store.get_meta("workload")) is None:
                store.set_meta("workload", json.dumps(workload, sort_keys=True))
            else:
                _same(found, workload, path)
            folder = cls(path, store)
            folder._tidy()
        except BaseException:
            store.close()
            raise
        return folder

    @classmethod
    def check(cls, path: str | Path, workload: Mapping[str, Any]) -> None:
        """An existing run, whose workload has to be this one; nothing is written. Raises RunError as `grow` does."""
        with cls.open(path) as folder:
            if (found := folder.store.get_meta("workload")) is not None:
                _same(found, workload, folder.path)

    def _tidy(self) -> None:
        """Remove what a killed process left half written, and its mark; log the records that it had no time to."""
        remove_parts(self.path)
        at_work.clear(self.path)
        log = self.path / _LOG
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
        if lines and lines.pop():
            write_atomic(log, "".join(f"{line}\n" for line in lines))  # the last line was cut off
        logged = "".join(lines)
        for record in self.store.records(sorted(key for key in self.store.keys() if key not in logged)):  # noqa: SIM118
            self._log(record)

    @classmethod
    def reach(cls, path: str | Path) -> Self:
        """An existing run of this schema, to put records into, for a worker that somebody else's run has sent."""
        path = Path(path)
        if not (path / STORE).is_file():
            raise RunError(f"{path} is no run folder: it holds no {STORE}")
        return cls(path, Store(path / STORE))

    # -- records ---------------------------------------------------------------------------------------------

    def put(self, record: Record) -> None:
        """Keep the record and write a line to the log."""
        self.store.put(record)
        self._log(record)

    def _log(self, record: Record) -> None:
        line = record.model_dump(mode="json", include={"key", "method", "settings", "outcome", "reason", "seconds"})
        if record.traceback:
            line["traceback"] = record.traceback
        line["time"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with open(self.path / _LOG, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")

    def records(self) -> list[Record]:
        """One record of every point, in the order in which the points came: the one that the last run asked for, else
        the newest. A point that ran again after a part of the program changed, or elsewhere, has a new key; its old
        record stays in the store."""
        try:
            asked = frozenset(json.loads(self.store.get_meta(ASKED) or "[]"))
        except (ValueError, TypeError):
            asked = frozenset()
        return newest(self.store.records(), asked)

    # -- small files -----------------------------------------------------------------------------------------

    def read_json(self, name: str) -> Any:
        """A JSON file of this folder; None where there is none. Raises RunError where it is damaged."""
        path = self.path / name
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{path} cannot be read ({error}); delete it and start again") from error

    def write_json(self, name: str, value: Any) -> Path:
        return write_atomic(self.path / name, json.dumps(value, indent=1))

    def close(self) -> None:
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _same(text: str, workload: Mapping[str, Any], path: Path) -> None:
    """Raises RunError where the workload that a store names is another one."""
    other, mine = _workload(text, path), json.loads(json.dumps(workload))
    changed = [
        f"{name}: {json.dumps(other.get(name))} there, {json.dumps(mine.get(name))} asked for"
        for name in sorted({*mine, *other})
        if other.get(name) != mine.get(name)
    ]
    if changed:
        raise RunError(f"run folder {path} holds another workload ({'; '.join(changed)}); give another --out, or none")


def _workload(text: str, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(text)
        if isinstance(found, dict):
            return found
    except (ValueError, RecursionError):
        pass
    raise RunError(
        f"run folder {path} is damaged: what its store says of the workload cannot be read; give another --out"
    )
