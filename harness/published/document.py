"""A published cost table and ours, as markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from harness.errors import UserError
from harness.published.costs import Cell, cells, deviation, published, spec_of
from harness.published.quality import quality
from results.tables.formatting import rows
from results.tables.published import dense_rows

_NUMBERS = ("ratio", "batch", "latency_ratio", "latency_ratio_low", "latency_ratio_high")
_COLUMNS = ("method", "settings", "model", "outcome", "mask_tokens", "peak_memory_mb")
_READING = """\
Counted on the meta device by the command below, per image and step, both CFG halves, in GMACs (the papers'
"GFLOPs"). Nothing is fitted to a published cell; an empty published cell is our prediction.

- **published**: the paper's figure, per image (its GFLOPs column divided by the batch where it holds a whole
  batch).
- **layers**: what linear layers and convolutions do, and 2 operations per element of a norm: what a counter
  sees that hooks layers. No products inside attention, none of ToMe's matching; routers count as the linear
  layers that they are in the paper. The published totals whose mechanism is known agree with this to their
  last printed digit (Table 2: without the context's projection), and with fvcore's rule for norms in its
  place (4 per element) to 0.03 %.
- **paper**: fvcore's count as the harness reports it everywhere (`gmacs_paper`): with ToMe's matching and 4
  operations per element of a norm. **true**: every matrix product (`gmacs`).
- **deviation**: of *layers* from *published*.
"""
_BARE = """\
- **without context**: *layers* without the product of our decoder that projects the encoder's context onto
  each token. The published figures hold no such product: the difference between the two mask sizes leaves no
  room for width^2 per token. So ours is the costlier by this product, which stands in the columns to its
  left.
"""
_LEARNED = """\
DiffCR's ratios are learned, so its cost cannot be predicted from the target. Its rows show what a table with
the target ratio in all layers costs, and *implied kept*, the mean kept ratio at which the published figure
would come out: a back-calculation, no prediction.
"""


def write(name: str, measured: Path | None = None) -> str:
    """The document. measured: CSV of a profile, whose latency and memory relative to dense stand beside the paper's.
    Raises UserError."""
    spec, found = spec_of(name), cells(name)
    bare = any(cell.bare is not None for cell in found)
    out = [f"# {spec['title']}", _READING + (_BARE if bare else ""), f"```\npython -m harness published {name}\n```"]
    worst = max((abs(d) for cell in found if (d := deviation(cell)) is not None), default=0.0)
    agreeing = sum(deviation(cell) is not None for cell in found)
    out.append(f"The {agreeing} published figures whose mechanism is known agree to {100 * worst:.2g} %.")
    head = ["row", "C.R.", "column", "published", "layers", "deviation"]
    head += [*(["without context", "deviation"] if bare else []), "paper", "true", "implied kept", "mechanism"]
    out.append(rows(head, [_line(cell, bare) for cell in found]))
    if any(cell.learned for cell in found):
        out.append(_LEARNED)
    if spec.get("notes"):
        out.append(spec["notes"])
    out += ["## Latency and memory, relative to dense", _relative(spec, found, measured)]
    out += ["## Quality, against the dense that a row was measured against", quality(spec, published(spec))]
    return "\n\n".join(part.strip() for part in out) + "\n"


def _line(cell: Cell, bare: bool) -> list[str]:
    apart = None
    if bare and cell.bare is not None and cell.published and not cell.learned and cell.explained:
        apart = cell.bare / cell.published - 1
    context = [_number(cell.bare), _share(apart)] if bare else []
    return [
        cell.name, f"{100 * cell.ratio:g} %", cell.setup, _number(cell.published), _number(cell.layers),
        _share(deviation(cell)), *context, _number(cell.paper), _number(cell.total),
        "" if cell.kept is None else f"{cell.kept:.4f}", cell.mechanism,
    ]  # fmt: skip


def _relative(spec: dict[str, object], found: Sequence[Cell], measured: Path | None) -> str:
    frame = published(spec)
    own = _profile(measured) if measured is not None else None
    if own is not None and (other := sorted(set(own["model"].astype(str)) - {str(spec["model"])})):
        raise UserError(f"profile {measured} is of {', '.join(other)}, and the table is about {spec['model']}")
    dense = dense_rows(spec, frame)
    lines = []
    for index, row in enumerate(frame.to_dict("records")):
        for place, setup in enumerate(spec["setups"]):  # type: ignore[arg-type,var-annotated]
            suffix = setup["suffix"]
            cell = found[index * len(spec["setups"]) + place]  # type: ignore[arg-type]
            printed = [
                _ratio(row[f"{what}_{suffix}"], frame[f"{what}_{suffix}"][dense[index]])
                for what in ("latency_s", "memory_gb")
            ]
            against = frame["method"][dense[index]]
            lines.append([cell.name, f"{100 * cell.ratio:g} %", suffix, against, *printed, *_own(own, cell, setup)])
    note = "Ours: not measured for this document; give `--measured FILE.csv`, which `python -m harness profile` writes."
    if own is not None:
        about = {f"{r['device']}, {r['dtype']}" for r in own.to_dict("records")}
        note = f"Ours: one denoiser step, {'; '.join(sorted(about))}, at the same batch or number of tokens."
    head = ["row", "C.R.", "column", "dense", "paper, latency", "paper, memory", "ours, latency [95 %]", "ours, memory"]
    return f"The paper's: whole generation, on an A100. {note}\n\n" + rows(head, lines)


def _profile(path: Path) -> pd.DataFrame:
    try:
        found = pd.read_csv(path)
        found = found.astype({name: float for name in _NUMBERS if name in found})
    except (OSError, ValueError) as error:
        raise UserError(f"profile {path} cannot be read: {(str(error).splitlines() or [''])[0]}") from error
    if lacking := [name for name in (*_NUMBERS, *_COLUMNS) if name not in found]:
        raise UserError(
            f"profile {path} has no column {lacking[0]}; give the CSV that `python -m harness profile` writes"
        )
    return found


def _own(own: pd.DataFrame | None, cell: Cell, setup: dict[str, int]) -> list[str]:
    """Latency and memory relative to dense where the profile has them."""
    if own is None or not cell.method or not cell.explained:
        return ["", ""]
    tokens = setup.get("mask_tokens")
    here = own[own["mask_tokens"] == tokens] if tokens else own[own["batch"] == setup["images"]]
    here = here[(here["outcome"] == "ok") & (here["mode"].fillna("eager") == "eager" if "mode" in here else True)]
    agreeing = pd.Series([_agrees(one, cell.settings) for one in here["settings"]], index=here.index, dtype=bool)
    mine = here[(here["method"] == cell.method) & agreeing]
    dense = here[here["method"] == "dense"]
    if mine.empty or dense.empty:
        return ["", ""]
    one = mine.iloc[0]
    latency = ""
    if not pd.isna(one["latency_ratio"]):
        latency = f"{one['latency_ratio']:.3f} [{one['latency_ratio_low']:.3f}, {one['latency_ratio_high']:.3f}]"
    return [latency, _ratio(one["peak_memory_mb"], dense.iloc[0]["peak_memory_mb"])]


def _agrees(own: object, settings: dict[str, object]) -> bool:
    """Whether a profile's point has the settings that a row is about. own: as JSON; older ones lack some."""
    try:
        found = json.loads(str(own))
    except ValueError:
        return False
    return isinstance(found, dict) and all(found.get(name, value) == value for name, value in settings.items())


def _ratio(value: object, by: object) -> str:
    """ "OOM" and empty cells stay as they are."""
    try:
        ratio = float(value) / float(by)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(value)
    return "" if pd.isna(ratio) else f"{ratio:.3f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.2f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:+.4f} %"
