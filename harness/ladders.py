"""The values that a method's one strength setting may take in a search for a budget: its ladder, rising."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import annotated_types
import numpy as np

from harness import config, modes
from harness.compose import method_class
from harness.errors import UserError
from harness.method import Method
from harness.models import Model
from harness.sweep import DENSE, MethodSpec, Sweep

FITTED = 72
"""Ratios that a method with an adapter for each may be fitted for."""


def ladders(sweep: Sweep, model: Model) -> list[tuple[MethodSpec, Sequence[float | int]]]:
    """The sweep's methods that are tuned, with the values that their strength may take. Raises UserError for one that
    has no strength, and for those that no adapter is fitted for, all at once."""
    specs = [spec for spec in sweep.methods if not is_reference(spec)]
    for spec in specs or [spec for spec in sweep.methods if spec.name != DENSE]:
        if not method_class(spec.name).strength:
            raise UserError(f"method {spec.name!r} has no strength to tune to a budget; compose it with one that has")
    found = [(spec, ladder_of(spec, model)) for spec in specs]
    known = set(model.adapter_files())
    bare = [_shown(spec) for spec, ladder in found if not ladder or not _names(at(spec, ladder[-1])) <= known]
    for spec, ladder in found:
        if ladder and (reason := modes.refusal(sweep.matched_in, at(spec, ladder[-1]))):
            raise UserError(f"{_shown(spec)} cannot be tuned to {sweep.match}: {reason}; leave it out")
    kept = (spec for spec in sweep.methods if is_reference(spec))
    bare += [_shown(spec) for spec in kept if not _names(config.settings_of(spec, ())[0]) <= known]
    if bare := list(dict.fromkeys(bare)):
        raise UserError(
            f"{', '.join(bare)}: no fitted adapters for model {model.name!r}; fit some first, or leave them out "
            "(`run --fit --dry-run` lists the commands)"
        )
    return found


def ladder_of(spec: MethodSpec, model: Model) -> Sequence[float | int]:
    """The values that the strength setting may take, rising."""
    cls = method_class(spec.name)
    field = cls.Settings.model_fields[cls.strength]
    bounds = {type(one): one for one in field.metadata}
    low, high = bounds.get(annotated_types.Ge), bounds.get(annotated_types.Le)
    if low is None or high is None:
        raise UserError(f"method {spec.name!r} cannot be matched: its setting {cls.strength!r} has no bounds ge and le")
    if field.annotation is int:
        return range(int(low.ge), int(high.le) + 1)  # type: ignore[call-overload]
    steps = np.linspace(float(low.ge), float(high.le), 2001)  # type: ignore[arg-type]
    ladder = [round(float(value), 5) for value in steps]
    while not _valid(spec, ladder[-1]):  # other settings may forbid the highest values
        ladder.pop()
    ends = {at(spec, value).adapter() for value in (ladder[1], ladder[-1])}
    if not cls.needs_state or len(ends) == 1:
        return ladder
    known = set(model.adapter_files())
    fitted = sorted(round(0.0125 * i, 4) for i in range(1, FITTED + 1))
    return [value for value in fitted if value <= ladder[-1] and _names(at(spec, value)) <= known]


def is_reference(spec: MethodSpec) -> bool:
    """Whether a method spares nothing and has nothing to tune, as `dense` and `dense-ft`: it runs as it is."""
    cls = method_class(spec.name)
    return not cls.compresses and not cls.strength and not cls.attach_order


def _shown(spec: MethodSpec) -> str:
    settings = ", ".join(f"{name}={value}" for name, value in fixed(spec).items())
    return f"{spec.name!r}" + (f" ({settings})" if settings else "")


def fixed(spec: MethodSpec) -> dict[str, Any]:
    """The settings that are given, without the one that is tuned."""
    strength = method_class(spec.name).strength
    return {name: value for name, value in spec.settings.items() if name != strength}


def _valid(spec: MethodSpec, value: float) -> bool:
    try:
        at(spec, value)
    except UserError:
        if value > 0:
            return False
        raise  # something else is wrong
    return True


def _names(method: Method) -> set[str]:
    return {one.adapter() for one in method.members() if one.needs_state and one.ratio != 0}


def at(spec: MethodSpec, value: float | int) -> Method:
    cls = method_class(spec.name)
    (method,) = config.settings_of(MethodSpec(name=spec.name, settings={**spec.settings, cls.strength: value}), (0.1,))
    return method
