"""Pairs of a method and a control of equal cost that destroys one of its axes."""

from __future__ import annotations

from dataclasses import dataclass

from results.record import Record
from results.tables.formatting import compact_json


@dataclass(frozen=True)
class Pair:
    """method less control_record is what the axis is worth. form: "swapped", the same weights under the control, or
    "refitted", weights that were fitted under it. seed: the training seed of the method's weights."""

    method: Record
    control_record: Record
    axis: str
    control: str
    form: str
    seed: int = 0

    @property
    def claim(self) -> tuple[object, ...]:
        """What pairs that differ in their training seed alone have in common."""
        task = compact_json(self.method.task_settings)
        return (self.method.method, self.method.ratio, task, self.axis, self.control, self.form)
