"""A record and its files as plain data: what travels between run folders that do not lie on one machine."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from results.files import write_atomic
from results.record import Record
from results.run_folder import RunFolder


@dataclass(frozen=True)
class Parcel:
    """files: the bytes (n,), uint8, of each file by its path below the run folder: arrays, since these are shared
    between processes of a machine and not copied."""

    record: Record
    files: dict[str, np.ndarray]


def packed(folder: RunFolder, record: Record, without: Collection[str] = ()) -> Parcel:
    """The record with the files that it names, but for those that the receiver has. Raises OSError for one that is
    gone."""
    names = [name for name in record.files() if name not in without]
    return Parcel(record, {name: np.fromfile(folder.path / name, dtype=np.uint8) for name in names})


def unpacked(parcel: Parcel, folder: RunFolder) -> Record:
    """Write the files, each whole or not at all, and then the record in one transaction."""
    for name in parcel.record.files():
        if name in parcel.files:
            write_atomic(folder.path / name, parcel.files[name].tobytes())
    folder.put(parcel.record)
    return parcel.record
