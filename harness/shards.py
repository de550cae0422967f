"""A sweep cut into parts by hand, one for each machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from harness.errors import UserError
from harness.workload import Point


class Shard(NamedTuple):
    """Part `number` (from 1) of `of` parts."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From "3/8". Raises UserError."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise UserError(f"--shard expects NUMBER/OF, from 1/{found[2] if found else 'n'} on, for instance 3/8; "
                            f"got {text!r}")  # fmt: skip
        return cls(int(found[1]), int(found[2]))

    def of_points(self, workloads: Sequence[Sequence[Point]]) -> list[tuple[Point, ...]]:
        """This part of every workload's points, the first of which is dense and is in every part that has others: they
        are measured against it on their own machine. Points are dealt out in turn."""
        found, dealt = [], 0
        for dense, *others in workloads:
            mine = [point for place, point in enumerate(others, start=dealt) if place % self.of == self.number - 1]
            dealt += len(others)
            found.append((dense, *mine) if mine or not others else ())
        return found
