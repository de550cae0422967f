"""Compression ratios by layer and timestep region, as a CSV file."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from harness.errors import UserError

COLUMNS = ("layer", "region", "ratio")
_HIGHEST = 0.9


def read(path: Path, layers: int) -> Tensor:
    """The ratios, (layers, regions). The file has the columns layer, region and ratio, and one row for each layer and
    region, both counted from 0. Raises UserError."""
    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise UserError(f"ratio table {path} cannot be read: {(str(error).splitlines() or [''])[0]}") from error
    if missing := [name for name in COLUMNS if name not in frame]:
        raise UserError(f"ratio table {path} has no column {', '.join(missing)}; expected {', '.join(COLUMNS)}")
    found: dict[tuple[int, int], float] = {}
    for line, cells in enumerate(frame[list(COLUMNS)].itertuples(index=False), start=2):
        try:
            layer, region, ratio = int(cells[0]), int(cells[1]), float(cells[2])
            whole = layer == cells[0] and region == cells[1]
        except (TypeError, ValueError, OverflowError):  # the last for infinity
            whole = False
        if not whole or layer < 0 or region < 0 or not 0 <= ratio <= _HIGHEST:
            raise UserError(
                f"ratio table {path}, line {line}: expected a layer and a region from 0 and a compression ratio in "
                f"[0, {_HIGHEST}], got {', '.join(map(str, cells))}"
            )
        if (layer, region) in found:
            raise UserError(f"ratio table {path}, line {line}: layer {layer}, region {region} stands there twice")
        found[layer, region] = ratio
    regions = max((region for _, region in found), default=-1) + 1
    for place in ((layer, region) for layer in range(layers) for region in range(regions)):
        if place not in found:
            raise UserError(
                f"ratio table {path} lacks layer {place[0]}, region {place[1]}; the model has {layers} layers"
            )
    if not regions or len(found) > layers * regions:
        raise UserError(f"ratio table {path} has rows for {len({p[0] for p in found})} layers; the model has {layers}")
    return torch.tensor([[found[layer, region] for region in range(regions)] for layer in range(layers)])
