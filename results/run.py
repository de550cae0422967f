"""A run as one object: its table, and where its images lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from results import outputs
from results.analysis.noninferiority import MARGIN
from results.analysis.verdict import judge
from results.analysis.verdict_types import Verdict
from results.record import SCHEMA_VERSION, Record
from results.run_folder import RunFolder
from results.tables import step_costs, terminal, verdict
from results.tables.table import Table


class Run(Table):
    """The table of a run folder: `harness.run` and `harness.open_run` give one.

    It reads nothing but the folder: no model, no torch. folder: None for records that lie nowhere. not_run: how many
    points that were asked for have no record, since dense failed. matches: what the search for budgets found.
    attribution: what each axis of a method is worth, of a run of `harness.attribute`.
    """

    def __init__(self, records: Iterable[Record], folder: str | Path | None = None, *, not_run: int = 0) -> None:
        super().__init__(records)
        self.folder = None if folder is None else Path(folder)
        self.not_run = not_run
        self.matches: tuple[Mapping[str, Any], ...] = ()
        self.attribution: pd.DataFrame | None = None

    @property
    def schema_note(self) -> str:
        """What records of an older schema lack; "" where all are of today's."""
        old = {record.schema_version for record in self.records} - {SCHEMA_VERSION}
        if not old:
            return ""
        return f"records of schema {min(old)} hold no cases and no values per image: no paired differences of them"

    def verdict(self, margin: float = MARGIN) -> Verdict:
        """Each point against dense and its best rival, in words: `results.analysis.verdict`. margin: relative to
        dense's mean."""
        return judge(self.records, self.matches, margin)

    def images(self, record: Record) -> np.ndarray | None:
        """The record's images, (N, H, W, 3) uint8; None where they are gone."""
        if self.folder is None:
            return None
        with RunFolder.open(self.folder) as folder:
            return folder.images(record)

    def features(self, record: Record, extractor: str) -> np.ndarray | None:
        """Features (N, D) of the record's images; None where they were not kept."""
        if self.folder is None:
            return None
        with RunFolder.open(self.folder) as folder:
            return folder.features(record, extractor)

    def references(self, record: Record, extractor: str) -> np.ndarray | None:
        """Features (M, D) of what the record's distances compare with; None where they were not kept."""
        if self.folder is None:
            return None
        with RunFolder.open(self.folder) as folder:
            return folder.reference(record, extractor)

    def write(self, folder: str | Path | None = None) -> None:
        """Write the tables below `folder`; without one, draw all outputs of the run's own folder again."""
        if folder is not None:
            outputs.write_tables(self, folder)
        elif self.folder is not None:
            with RunFolder.open(self.folder) as own:
                outputs.write(own)

    def print(self, console: Console | None = None) -> None:
        """Print a table for the terminal, one per group of comparable points, at most 120 columns wide, and the verdict
        on each."""
        console = console or Console()
        if self.schema_note:
            console.print(f"note: {self.schema_note}", highlight=False)
        if any(record.task == step_costs.TASK for record in self.records):
            step_costs.show(self, console)
        else:
            terminal.show(self, console)
            if not self.schema_note:
                verdict.show(self.verdict(), console)


def open_run(folder: str | Path) -> Run:
    """A run folder as a table, of the newest record of every point. One of schema 1 opens with what it has.

    Raises RunError for a folder that is no run, and StoreError for a store that is damaged or of a newer schema.
    """
    with RunFolder.open(folder) as found:
        run = Run(found.records(), folder)
        run.matches = tuple(found.read_json(outputs.MATCHES) or ())
        return run
