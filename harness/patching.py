"""Put a function around a method of one object for a while, and take it back exactly."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def wrapped(owner: object, attribute: str, around: Callable[..., Any]) -> Iterator[None]:
    """Within the context `owner.attribute(*a, **k)` calls `around(original, *a, **k)`; its signature looks the same.

    The wrapper lives on the instance alone. On exit, whatever was raised, the instance's own attribute is put back or,
    where it had none, removed. Raises AttributeError where there is no such method.
    """
    original = getattr(owner, attribute)
    own = attribute in vars(owner)

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return around(original, *args, **kwargs)

    setattr(owner, attribute, wrapper)
    try:
        yield
    finally:
        if own:
            setattr(owner, attribute, original)
        else:
            delattr(owner, attribute)
