"""Bounds that a person writes: `truth>+2%`, `latency=0.8`, `truth=-1%`, and which figure of a record they are on.

A bound needs a unit: `%` of what it is relative to, or the figure's own unit. A number alone is taken for a cost
relative to dense, as in budgets, and for nothing else.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from results.analysis.comparisons import LOGARITHMIC

COSTS = {"latency": "latency_ratio", "gmacs": "gmacs", "memory": "peak_memory_mb"}
_NUMBER = re.compile(r"\s*(?P<sign>[+-]?)(?P<number>\d+\.?\d*|\.\d+)\s*(?P<unit>.*?)\s*")


class BadBound(ValueError):
    """A bound that nobody can hold figures against. The message says what was expected."""


@dataclass(frozen=True)
class Bound:
    """name: of the figure, as written. relation: ">", "<" or "=". value: with its sign. unit: "%", a figure's own,
    or "" for none. signed: whether a sign was written, which makes it a difference. text: as written."""

    name: str
    relation: str
    value: float
    unit: str
    signed: bool
    text: str

    @property
    def relative(self) -> float:
        """A bound in % as a share."""
        return self.value / 100


def bound(text: str, relations: str, example: str) -> Bound:
    """NAME, a relation, NUMBER and UNIT. relations: the signs that may stand there. example: shown where the text is no
    bound. Raises BadBound."""
    relation = next((sign for sign in text if sign in relations), "")
    name, _, rest = text.partition(relation or relations)
    number = _NUMBER.fullmatch(rest)
    if not (relation and name.strip() and number):
        signs = " or ".join(relations)
        raise BadBound(f"{text!r} is no bound: expected a name, {signs}, a number and its unit, such as {example}")
    value = float(number["number"]) * (-1 if number["sign"] == "-" else 1)
    return Bound(name.strip(), relation, value, number["unit"], bool(number["sign"]), text)


def figure(name: str, estimates: Iterable[str]) -> str:
    """The estimate that a name stands for: itself, a cost's short name, or the one with brackets behind it ("truth" for
    "truth[shapes-judge]"). Raises BadBound for none or several."""
    known = list(dict.fromkeys(estimates))
    axis, bracket, mode = name.partition("[")
    wanted = f"{COSTS[axis]}{bracket}{mode}" if axis in COSTS else name
    found = [wanted] if wanted in known else [one for one in known if one.startswith(f"{name}[")]
    if len(found) == 1:
        return found[0]
    if found:
        raise BadBound(f"{name!r} stands for several metrics: {', '.join(found)}; name one of them in full")
    short = {one.partition("[")[0]: one for one in known}
    near = difflib.get_close_matches(name, [*short, *known], n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise BadBound(f"no metric or cost {name!r} is there: {hint}there are: {', '.join(known) or 'none'}")


def check_unit(one: Bound, unit: str) -> None:
    """Raises BadBound where a number has no unit or another one than the figure's."""
    if one.unit == "%" and unit in LOGARITHMIC:
        raise BadBound(f"{one.text!r}: {unit} has no zero, so a percentage of it says nothing; give {unit}")
    if one.unit not in ("%", unit):
        what = f"has the unit {one.unit!r}" if one.unit else "has no unit"
        either = repr(unit) if unit in LOGARITHMIC else f"% or {unit!r}"
        raise BadBound(f"{one.text!r} {what}: expected {either} behind the number")
