"""Finished points of other run folders, taken over in place of being made again."""

from __future__ import annotations

import shutil
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
    places = sorted(here.parent.iterdir()) if keys and here.parent.is_dir() else []
    for place in places:
        if place == here or not (place / STORE).is_file():
            continue
        try:
            with RunFolder.open(place) as other:
                if other.store.schema == SCHEMA_VERSION:
                    held = other.store.keys("ok") & set(keys) - found.keys()
                    found |= {r.key: place for r in other.store.records(sorted(held)) if other.complete(r)}
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
    source, target = other.place(record.sample_key), folder.place(record.sample_key)
    if source.exists() and not target.exists():  # a profile has no images
        part = part_of(target)
        part.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, part, copy_function=link_or_copy)
        try:
            part.rename(target)
        except OSError:  # somebody else was faster
            shutil.rmtree(part, ignore_errors=True)
            if not target.is_dir():
                raise
    for name in record.references.values():
        if not (folder.path / name).is_file():
            (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(str(other.path / name), str(folder.path / name))
    folder.put(record)
