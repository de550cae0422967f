"""The adapter states that methods run with, and their digests."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from harness.errors import UserError
from harness.method import Method
from harness.models.model import Model
from harness.spec import State

T = TypeVar("T")


def needing(method: Method) -> list[Method]:
    """The method, or the parts of a composition, that run with an adapter state."""
    return [one for one in method.members() if one.needs_state and one.ratio != 0]


def digest_of(method: Method, model: Model) -> str:
    """The digest of its adapter states, without reading their tensors; "" where it needs none. Raises UserError for a
    missing one, with the command that fits it."""
    return "".join(_told(one, model, model.adapter_digest) for one in needing(method))


def state_of(method: Method, model: Model) -> State | None:
    """The adapter states that a method, or the parts of a composition, run with. Raises UserError as `digest_of`."""
    states = {one.name: _told(one, model, model.adapter) for one in needing(method)}
    return states.get(method.name) or (State(parts=states) if states else None)


def _told(method: Method, model: Model, read: Callable[[str], T]) -> T:
    try:
        return read(method.adapter())
    except UserError as error:
        ratio = "" if method.ratio is None else f" --ratio {method.ratio:g}"
        raise UserError(
            f"{error}; fit one with `python -m harness fit {method.name} --model {model.name}{ratio}`"
        ) from error
