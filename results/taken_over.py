"""Finished points of other run folders, taken over in place of being made again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from results.files import link_or_copy, part_of
from results.record import SCHEMA_VERSION, Record
from results.run_folder import STORE, RunFolder
from results.store import StoreError


def beside(path: Path, keys: Sequence[str]) -> dict[str, Path]:
    """Which of these points other run folders in the same place hold, finished and whole, by key, in the order of the
    keys. A folder that cannot be read is passed over."""
    found: dict[str, Path] = {}
    here = path.resolve()
    try:
        places = sorted(here.parent.iterdir()) if keys and here.parent.is_dir() else []
    except OSError:
        places = []
    for place in places:
        try:
            if place == here or not (place / STORE).is_file():
                continue
            with RunFolder.open(place) as other:
                if other.store.schema == SCHEMA_VERSION:
                    held = other.store.keys("ok") & set(keys) - found.keys()
                    found |= {
                        r.key: place for r in other.store.records(sorted(held)) if other.complete(r) and other.sound(r)
                    }
        except (StoreError, OSError):
            continue
    return {key: found[key] for key in keys if key in found}


def take(folder: RunFolder, found: Mapping[str, Path]) -> None:
    """Take over finished records from other run folders, their images included, in this order. found: see `beside`."""
    with ExitStack() as stack:
        others = {path: stack.enter_context(RunFolder.open(path)) for path in dict.fromkeys(found.values())}
        for key, path in found.items():
            if (record := others[path].store.get(key)) is not None:
                _take(folder, others[path], record)


def _take(folder: RunFolder, other: RunFolder, record: Record) -> None:
    """File by file: a run that was killed has left a part of them, perhaps, or other code its own."""
    for name in record.files():
        source, target = other.path / name, folder.path / name
        here = target.exists() and target.samefile(source)
        if source.is_file() and not here:  # what did not end well may lack some
            part = part_of(target)
            part.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(str(source), str(part))
            part.replace(target)
    folder.put(record)
