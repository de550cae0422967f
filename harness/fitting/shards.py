"""Encoded samples on disk: so many per file, in half precision, so that making them goes on where it stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from harness import checkpoints


@dataclass(frozen=True)
class Shards:
    """Files of `size` samples each in a folder. Sample i is row i % size of file i // size."""

    folder: Path
    size: int

    def absent(self, count: int) -> list[range]:
        """Which of `count` samples are not there yet, by file."""
        parts = (range(start, min(start + self.size, count)) for start in range(0, count, self.size))
        return [part for part in parts if not self._path(part.start).exists()]

    def save(self, samples: range, rows: Mapping[str, Tensor]) -> None:
        """Write a whole file: tensors (size, ...) by name."""
        halved = {name: part.half() if part.is_floating_point() else part for name, part in rows.items()}
        checkpoints.save(self._path(samples.start), halved, {"files": len(samples)})

    def rows(self, samples: Sequence[int]) -> dict[str, Tensor]:
        """Tensors (B, ...) of these samples by name, in single precision."""
        found = [self._row(sample) for sample in samples]
        rows = {name: torch.cat([row[name] for row in found]) for name in found[0]}
        return {name: part.float() if part.is_floating_point() else part for name, part in rows.items()}

    def _row(self, sample: int) -> dict[str, Tensor]:
        place = sample % self.size
        with checkpoints.opened(self._path(sample)) as handle:
            return {name: handle.get_slice(name)[place : place + 1] for name in handle.keys()}  # noqa: SIM118

    def _path(self, sample: int) -> Path:
        return self.folder / f"{sample // self.size:06d}.safetensors"
