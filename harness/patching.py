"""Put a function around a method of one object for a while, and take it back exactly."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_HOOKED, KEPT = "forward", "_old_forward"
"""A module's forward, and where accelerate keeps it under its hooks."""


@contextmanager
def wrapped(owner: object, attribute: str, around: Callable[..., Any]) -> Iterator[None]:
    """Within the context `owner.attribute(*a, **k)` calls `around(original, *a, **k)`; its signature looks the same.

    The wrapper lives on the instance alone. On exit, whatever was raised, the instance's own attribute is put back or,
    where it had none, removed. accelerate's hooks keep a module's `forward` as `_old_forward` and put their own in its
    place, at every call anew where a pipeline offloads its parts: there the wrapper goes around what they keep, and
    comes off from wherever they have moved it. Raises AttributeError where there is no such method.
    """
    if attribute == _HOOKED and KEPT in vars(owner):
        attribute = KEPT
    original = getattr(owner, attribute)
    own = attribute in vars(owner)

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return around(original, *args, **kwargs)

    setattr(owner, attribute, wrapper)
    try:
        yield
    finally:
        place = next((name for name in (attribute, _HOOKED, KEPT) if vars(owner).get(name) is wrapper), attribute)
        if own or place == KEPT:
            setattr(owner, place, original)
        else:
            delattr(owner, place)
