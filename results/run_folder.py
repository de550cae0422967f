"""A run folder: the store, and beside it what is too large for a database row.

    store.sqlite  log.jsonl
    images/<sample key>/00000.png ...          generated images, one per case
    images/<sample key>/shown/<label>/...      what the task shows beside them
    images/<sample key>/features-<name>.npy    features (N, D), float16
    images/<sample key>/token-maps.npz         see `TokenMaps`
    references/<name>-<digest>.npy             features (M, D) of what distances compare with, float16
    tables/  plots/                            drawn from the above, at any time

Nothing here needs torch or a model.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image

from results import at_work
from results.files import check_writable, part_of, remove_parts, slug, write_atomic
from results.record import Record, newest
from results.store import Store, StoreError

STORE = "store.sqlite"
ASKED = "asked"  # the keys of the points of the last run, as JSON, in the store
_LOG = "log.jsonl"
_FOLDERS = ("images", "references", "tables", "plots")


class RunError(StoreError):
    """A folder that is no run, or one of another workload. The message names it and the remedy."""


@dataclass(frozen=True)
class TokenMaps:
    """Which tokens a point kept while one image formed. T sampling steps, L layers, H W token grid.

    keep: (T, L, H, W), the share of the CFG halves in which a token went through the layer, NaN where the model
    generates none. scores: (T, L, H, W), router scores in 0..1, None without routers. ratios: (L, R), compression
    ratios by layer and timestep region, None where the method has no such table. images: (T, h, w, 3) uint8, the clean
    image that the sampler expects after each step.
    """

    keep: np.ndarray
    images: np.ndarray
    scores: np.ndarray | None = None
    ratios: np.ndarray | None = None


class RunFolder:
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

    # -- images and arrays -----------------------------------------------------------------------------------

    def place(self, sample_key: str) -> Path:
        """Where the images of a point lie, and all that is made with them."""
        return self.path / "images" / sample_key

    def save_images(self, images: np.ndarray, sample_key: str, shown: str = "") -> list[str]:
        """Write (N, H, W, 3) uint8 as PNG files; returns their paths relative to the folder. shown: the label of
        what the task shows beside the generated ones."""
        place = self.place(sample_key) / (f"shown/{slug(shown)}" if shown else "")
        names = []
        for row, image in enumerate(images):
            path = place / f"{row:05d}.png"
            with _written(path) as part:
                Image.fromarray(image).save(part, format="PNG")
            names.append(path.relative_to(self.path).as_posix())
        return names

    def images(self, record: Record) -> np.ndarray | None:
        """The record's images, (N, H, W, 3) uint8; None where some are gone."""
        if not record.images:
            return None
        try:
            return np.stack([np.asarray(Image.open(self.path / name).convert("RGB")) for name in record.images])
        except Exception:  # damaged pictures raise whatever their decoders do
            return None

    def complete(self, record: Record) -> bool:
        """Whether every file that the record names is there."""
        return all((self.path / name).is_file() for name in record.files())

    def sound(self, record: Record) -> bool:
        """Whether every image of the record is there whole, none of which is decoded."""
        for name in record.images:
            try:
                with Image.open(self.path / name) as image:
                    image.verify()
            except Exception:  # damaged pictures raise whatever their decoders do
                return False
        return True

    def save_features(self, features: Mapping[str, np.ndarray], sample_key: str) -> dict[str, str]:
        """Write features (N, D) by extractor in half precision; returns paths by extractor."""
        return {
            name: self._save(sample_key, f"features-{slug(name)}.npy", np.asarray(x, dtype=np.float16))
            for name, x in features.items()
        }

    def save_references(self, features: Mapping[str, np.ndarray]) -> dict[str, str]:
        """Write reference features (M, D) by extractor, each set once; returns paths by extractor."""
        paths = {}
        for name, x in features.items():
            half = np.ascontiguousarray(x, dtype=np.float16)
            file = f"{slug(name)}-{hashlib.sha256(half.tobytes()).hexdigest()[:12]}.npy"
            paths[name] = f"references/{file}"
            if not (self.path / paths[name]).is_file():
                self._save_at(self.path / paths[name], half)
        return paths

    def features(self, record: Record, extractor: str) -> np.ndarray | None:
        """Features (N, D), float64; None where the record has none of this extractor, or the file is gone."""
        return self._array(record.features.get(extractor))

    def reference(self, record: Record, extractor: str) -> np.ndarray | None:
        """The features (M, D) that the record's distances compare with; None as for `features`."""
        return self._array(record.references.get(extractor))

    def _array(self, name: str | None) -> np.ndarray | None:
        try:
            return None if name is None else np.load(self.path / name, allow_pickle=False).astype(np.float64)
        except Exception:  # a damaged header is parsed as Python, and raises whatever that does
            return None

    def save_token_maps(self, maps: TokenMaps, sample_key: str) -> str:
        """Returns the path."""
        arrays = {"keep": maps.keep.astype(np.float16), "images": maps.images}
        if maps.scores is not None:
            arrays["scores"] = maps.scores.astype(np.float16)
        if maps.ratios is not None:
            arrays["ratios"] = maps.ratios.astype(np.float32)
        return self._save(sample_key, "token-maps.npz", arrays)

    def token_maps(self, record: Record) -> TokenMaps | None:
        """None where the record has none, or the file is gone."""
        if not record.token_maps:
            return None
        try:
            with open(self.path / record.token_maps, "rb") as file, np.load(file, allow_pickle=False) as held:
                found = {name: held[name] for name in held.files}
            if found["keep"].ndim != 4 or found["images"].ndim != 4:
                return None
            return TokenMaps(found["keep"], found["images"], found.get("scores"), found.get("ratios"))
        except Exception:  # damaged archives raise whatever their many readers do
            return None

    def _save(self, sample_key: str, name: str, arrays: np.ndarray | Mapping[str, np.ndarray]) -> str:
        return self._save_at(self.place(sample_key) / name, arrays)

    def _save_at(self, path: Path, arrays: np.ndarray | Mapping[str, np.ndarray]) -> str:
        with _written(path) as part, open(part, "wb") as handle:
            if isinstance(arrays, np.ndarray):
                np.save(handle, arrays, allow_pickle=False)
            else:
                np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]
        return path.relative_to(self.path).as_posix()

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


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    """A file beside `path`, which takes its place at the end. Raises StoreError where it cannot be written."""
    part = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}; free some space, or give another "
                         "--out, and start again: all records written before are kept") from error  # fmt: skip
    finally:
        part.unlink(missing_ok=True)


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
