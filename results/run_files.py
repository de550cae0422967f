"""Images, features and token maps of a run, in files beside its records. Nothing here needs torch or a model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from results.files import part_of, slug
from results.record import Record
from results.store import StoreError


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


class RunFiles:
    """What lies in a run folder beside its records. Writing raises StoreError; what is gone or damaged is None."""

    path: Path

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
        """Write reference features (M, D) by estimate or extractor, each set once; returns paths by the same."""
        paths = {}
        for name, x in features.items():
            half = np.ascontiguousarray(x, dtype=np.float16)
            paths[name] = f"references/{hashlib.sha256(half.tobytes()).hexdigest()[:16]}.npy"
            if not (self.path / paths[name]).is_file():
                self._save_at(self.path / paths[name], half)
        return paths

    def features(self, record: Record, extractor: str) -> np.ndarray | None:
        """Features (N, D), float64; None where the record has none of this extractor, or the file is gone."""
        return self._array(record.features.get(extractor))

    def reference(self, record: Record, name: str) -> np.ndarray | None:
        """The features (M, D) that a distance of the record compares with, by the estimate's name or its extractor;
        None as for `features`."""
        return self._array(record.references.get(name))

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
