"""Old names of the public interface: each works for one release, with a DeprecationWarning that names the new one."""

from __future__ import annotations

import functools
import sys
import warnings
from abc import ABCMeta
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, ParamSpec, TypeVar

METHOD = {
    "needs": "requires",
    "rank": "attach_order",
    "lasting": "slow_to_attach",
    "tabled": "per_layer_ratios",
    "host": "cpu_tensors",
    "reached": "effective_ratio",
    "cost_state": "dummy_state",
}
SAMPLER_CLOCK = {"halves": "batched_cfg", "hold": "freeze_step", "shortened": "reduced_steps"}
BACKBONE = {
    "offers": "capabilities",
    "placed": "uses_positions",
    "apart": "split_streams",
    "together": "merge_streams",
    "unchanged": "text_when_skipped",
    "weighed": "key_weight_kwargs",
    "narrowed": "pruned_width",
    "gated": "masked_width",
}
MODULES = {
    "harness.method": {"Watch": "CalibrationPass"},
    "harness.backbones.following": {"follow": "track_sampler"},
    "harness.backbones.lazy_pixart": {"LazyPixArt": "LazyPixArtBackbone", "LazyEncoder": "LazyEncoderBackbone"},
}
CALIBRATION_PASS = {"along": "full_trajectory"}

P = ParamSpec("P")
T = TypeVar("T")


class Renamed:
    """A base class with attributes and methods that had other names. `class Base(Renamed, old_names={old: new})`:
    subclasses may define, override, read and set them by the old names."""

    _old_names: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, *, old_names: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._old_names = {**cls._old_names, **(old_names or {})}
        for old, new in cls._old_names.items():
            if old in vars(cls) and new not in vars(cls):  # with both, it works with releases before and after
                made_in_python = isinstance(cls, ABCMeta)  # by a frame of its own
                _warn(f"{cls.__name__}.{old}", new, stacklevel=4 if made_in_python else 3)
                setattr(cls, new, vars(cls)[old])
            if new in vars(cls):
                setattr(cls, old, _Old(cls, old, new))


class _Old:
    """The old name in a class that defines the new one: `super().old` finds what the next class defines."""

    def __init__(self, cls: type, old: str, new: str) -> None:
        self._cls, self._old, self._new = cls, old, new

    def __get__(self, instance: object, owner: type) -> Any:
        _warn(f"{owner.__name__}.{self._old}", self._new, stacklevel=3)
        if instance is not None and self._new in vars(instance):
            return vars(instance)[self._new]
        value = vars(self._cls)[self._new]
        return value.__get__(instance, owner) if hasattr(value, "__get__") else value

    def __set__(self, instance: object, value: Any) -> None:
        _warn(f"{type(instance).__name__}.{self._old}", self._new, stacklevel=3)
        setattr(instance, self._new, value)


def module_attributes(module: str, old_names: Mapping[str, str] | None = None) -> Callable[[str], Any]:
    """A module's `__getattr__` for names that it had: by default, those in `MODULES`."""
    known = MODULES[module] if old_names is None else old_names

    def attribute(name: str) -> Any:
        if name not in known:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        _warn(f"{module}.{name}", known[name], stacklevel=3)
        return getattr(sys.modules[module], known[name])

    return attribute


def old_keywords(**old_names: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A function with keyword arguments that had other names: old=new."""

    def decorated(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            for old in old_names.keys() & kwargs.keys():
                _warn(f"argument {old}", old_names[old], stacklevel=3)
                kwargs[old_names[old]] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorated


def _warn(old: str, new: str, stacklevel: int) -> None:
    warnings.warn(f"{old} is now {new}; the old name goes with the next release", DeprecationWarning, stacklevel)
