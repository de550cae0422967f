"""A published cost table beside our own count of the same mechanisms, from files in results/published."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pandas as pd
import yaml
from torch import nn

from harness.errors import UserError, unknown
from harness.measure.torch_counter import Executed
from harness.profiling.costs import executed as run_step
from harness.profiling.subject import Candidate, Setup, Subject
from harness.profiling.workload import candidates, subject
from harness.sweep import META, MethodSpec, Profile, validated
from harness.tokens import kept_count
from results.tables.published import FOLDER

_GIGA = 1e9
_NORM = 2  # operations per element of a norm that the published totals agree with


@dataclass(frozen=True)
class Cell:
    """One published figure and ours, in GMACs per image and step, both CFG halves.

    layers: what linear layers and convolutions do, and 2 per element of a norm, as a counter that hooks layers sees
    it. bare: the same without the projection of the encoder's context; None: the model has none. paper: fvcore's count.
    total: every matrix product. kept: mean kept ratio that the published figure implies, where ratios are learned.
    explained: whether the mechanism is meant to be the paper's. method, settings: ours, "" where there is none.
    """

    name: str
    ratio: float
    setup: str
    mechanism: str
    published: float | None
    layers: float | None = None
    bare: float | None = None
    paper: float | None = None
    total: float | None = None
    kept: float | None = None
    learned: bool = False
    explained: bool = True
    method: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def spec_of(name: str) -> dict[str, Any]:
    """Raises UserError for an unknown table."""
    if name not in names():
        raise unknown("published table", name, names())
    found: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return found


def cells(name: str, only: Collection[str] = ()) -> list[Cell]:
    """Every row of a table, or those of these names, in every setup, counted on the meta device. Raises UserError for
    an unknown table."""
    return list(_cells(spec_of(name), only))


def published(spec: dict[str, Any]) -> pd.DataFrame:
    """The table as it was printed."""
    return pd.read_csv(FOLDER / spec["csv"])


def _cells(spec: dict[str, Any], only: Collection[str]) -> Iterator[Cell]:
    frame = published(spec)
    if len(frame) != len(spec["rows"]):
        raise UserError(f"{spec['csv']} has {len(frame)} rows, its mechanisms {len(spec['rows'])}; restore both files")
    asked = validated(Profile, {"model": spec["model"], "device": META})
    on = subject(asked)

    @cache
    def counted(row: int, tokens: int | None) -> tuple[Executed, Candidate]:
        given = spec["rows"][row]
        method = MethodSpec(name=given["method"], settings=given.get("settings", {}))
        chosen = candidates(asked.model_copy(update={"methods": (method,)}), on)[-1]
        return run_step(on, chosen, Setup(1, on.size, on.text_tokens, tokens)), chosen

    reference = next(row for row, given in enumerate(spec["rows"]) if given.get("method") == "dense"
                     and not given.get("unexplained"))  # fmt: skip
    for row, (given, cell) in enumerate(zip(spec["rows"], frame.to_dict("records"), strict=True)):
        for setup in spec["setups"] if not only or cell["method"] in only else ():
            figure = cell[f"gflops_{setup['suffix']}"]
            known = {
                "name": cell["method"], "ratio": cell["compression_ratio"], "setup": setup["suffix"],
                "mechanism": given["mechanism"], "published": None if pd.isna(figure) else figure / setup["images"],
            }  # fmt: skip
            if "method" not in given:
                yield Cell(**known)
                continue
            tokens = given.get("mask_tokens", setup.get("mask_tokens"))
            executed, chosen = counted(row, tokens)
            dense = counted(reference, tokens)[0]
            many = tokens or (on.size or 0) ** 2 // 4
            routers = 2 * on.backbone.layers * many * on.backbone.width if given.get("routers") else 0
            layers = _layers(executed) + routers
            context = _context(on, many)
            implied = None
            if given.get("learned") and known["published"]:
                share = 1 - _kept(chosen, many) / many
                full = _layers(dense) + routers - context
                implied = 1 - share * (full - known["published"] * _GIGA) / (full - layers + context)
            yield Cell(
                **known, layers=layers / _GIGA, bare=(layers - context) / _GIGA if context else None,
                paper=executed.paper / _GIGA, total=executed.total / _GIGA, kept=implied,
                learned=bool(given.get("learned")), explained=not given.get("unexplained"),
                method=given["method"], settings=chosen.method.settings.model_dump(mode="json"),
            )  # fmt: skip


def _layers(executed: Executed) -> int:
    return executed.layers + _NORM * sum(executed.norms.values())


def _kept(chosen: Candidate, tokens: int) -> int:
    return kept_count(chosen.method.ratio or 0.0, tokens)


def _context(on: Subject, tokens: int) -> int:
    projection = getattr(on.backbone.transformer, "context_proj", None)
    return 2 * tokens * projection.weight.numel() if isinstance(projection, nn.Linear) else 0


def deviation(cell: Cell) -> float | None:
    """Of the layers' count from the published figure, relative; None where there is nothing to compare."""
    if cell.published is None or cell.layers is None or cell.learned or not cell.explained:
        return None
    return cell.layers / cell.published - 1
