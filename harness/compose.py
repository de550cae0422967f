"""Methods on top of each other: `diffcr+fbcache`. A composition is a method like any other.

Its settings are those of its parts, each named `part.setting`; the first part that has a ratio, or a training seed,
gives it to the composition under its plain name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import combinations
from typing import Any, ClassVar

from pydantic import create_model

from harness import registry
from harness.attach import put_on
from harness.backbones.base import Backbone
from harness.errors import UserError
from harness.method import Fitting, Method, MethodSettings
from harness.spec import State

_PLAIN = ("ratio", "seed")


def method_class(name: str) -> type[Method]:
    """The class of a method, or of a composition `a+b`. Raises UserError for an unknown name, and for parts that cannot
    work together."""
    if "+" not in name:
        found: type[Method] = registry.methods.get(name)
        return found
    return _composition(tuple(registry.methods.get(part.strip()) for part in name.split("+")))


def refusal(first: type[Method], second: type[Method]) -> str:
    """Why two methods cannot work together; "" where they can."""
    if issubclass(first, second) or issubclass(second, first):
        return "a method does not go on twice"
    for one in (first, second):
        if not one.compresses and not one.attach_order:
            return f"{one.name} is a reference, nothing to compose with"
    if first.selects and second.selects:
        return "both choose the tokens that a block runs on, and one would choose among those that the other one left"
    if first.reuses and second.reuses:
        return "both keep results of earlier sampling steps, and one would keep what the other one made up"
    for keeps, selects in ((first, second), (second, first)):
        if keeps.reuses == "parts" and selects.selects == "changing":
            return (
                f"{keeps.name} keeps what parts of a block gave for one step's tokens, and {selects.name} sends others "
                "at the next"
            )
    if first.training == second.training == "trained":
        return "each was trained for itself alone"
    for one, other in ((first, second), (second, first)):
        if other.name in one.refuses:
            return one.refuses[other.name]
    return ""


class Composition(Method):
    """Several methods at once."""

    classes: ClassVar[tuple[type[Method], ...]] = ()

    def __init__(self, settings: MethodSettings | None = None) -> None:
        super().__init__(settings)
        values = {name: getattr(self.settings, name) for name in type(self.settings).model_fields}
        self._members: list[Method] = []
        for cls in self.classes:
            own = {field: values[_field(self.classes, cls, field)] for field in cls.Settings.model_fields}
            self._members.append(cls(cls.Settings.model_validate(own)))
        self.parts = frozenset().union(*(one.parts for one in self._members))  # type: ignore[misc]
        self.requires = frozenset().union(*(one.requires for one in self._members))  # type: ignore[misc]

    def members(self) -> Sequence[Method]:
        return self._members

    def adapter(self) -> str:
        return "+".join(one.adapter() for one in self._members if one.needs_state)

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        states = state.parts if state is not None else {}
        with ExitStack() as stack:
            for one in sorted(self._members, key=lambda method: method.attach_order):
                stack.enter_context(put_on(backbone, one, states.get(one.name)))
            yield

    def effective_ratio(self, state: State | None) -> float | None:
        states = state.parts if state is not None else {}
        ratios = [one.effective_ratio(states.get(one.name)) for one in self._members if one.ratio is not None]
        return ratios[0] if ratios else None

    def fitting(self, backbone: Backbone, steps: int, options: MethodSettings | None = None) -> Fitting:
        raise UserError(f"{self.name!r} is fitted part by part: fit {', '.join(c.name for c in self.classes)}")


def without(method: Method, member: Method) -> Method:
    """A composition without one of its members."""
    left = [one for one in method.members() if one is not member]
    if len(left) == 1:
        return left[0]
    classes = tuple(map(type, left))
    own = {_field(classes, type(one), name): value for one in left for name, value in one.settings.model_dump().items()}
    cls = _composition(classes)
    return cls(cls.Settings.model_validate(own))


def _field(classes: Sequence[type[Method]], cls: type[Method], field: str) -> str:
    """What a composition calls a part's setting."""
    first = next(one for one in classes if field in one.Settings.model_fields)
    return field if field in _PLAIN and first is cls else f"{cls.name}.{field}"


@cache
def _composition(classes: tuple[type[Method], ...]) -> type[Method]:
    for first, second in combinations(classes, 2):
        if reason := refusal(first, second):
            raise UserError(f"{first.name}+{second.name} cannot work together: {reason}")
    fields: dict[str, Any] = {
        _field(classes, cls, name): (field.annotation, field)
        for cls in classes
        for name, field in cls.Settings.model_fields.items()
    }
    name = "+".join(cls.name for cls in classes)
    stronger = next((cls for cls in classes if cls.strength), classes[0])
    body = {
        "name": name,
        "classes": classes,
        "Settings": create_model("CompositionSettings", __base__=MethodSettings, **fields),
        "parts": frozenset().union(*(cls.parts for cls in classes)),
        "requires": frozenset().union(*(cls.requires for cls in classes)),
        "needs_state": any(cls.needs_state for cls in classes),
        "compresses": any(cls.compresses for cls in classes),
        "slow_to_attach": any(cls.slow_to_attach for cls in classes),
        "least_steps": max(cls.least_steps for cls in classes),
        "adaptive": any(cls.adaptive for cls in classes),
        "training": max((cls.training for cls in classes), key=("free", "calibrated", "trained").index),
        "strength": _field(classes, stronger, stronger.strength) if stronger.strength else "",
        "sweep": stronger.sweep,
        "source": "; ".join(cls.source for cls in classes if cls.source),
    }
    return type("Composition", (Composition,), body)
