"""What a method has left behind on a pipeline: changed weights, hooks, patched functions, exchanged parts.

Functions that all models share (of torch, of the classes of the pipeline's parts) are put back here; a pipeline that
differs otherwise has to be loaded anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from harness.checksums import Checksum, checksums
from harness.patching import KEPT

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_DIFFUSERS_HOOKS = "_diffusers_hook"  # a registry; it stays, empty, where hooks were taken off
_NAMED = 3  # of each kind in a message

Parts = Mapping[str, Any]
"""What is looked at, by name: a pipeline, its components, or modules alone."""


@dataclass(frozen=True)
class Snapshot:
    """Parts of a pipeline as they were. objects: what must be the same objects, by kind and place. weights: checksums
    of parameters and buffers. shared: functions of classes and of torch, by owner and name."""

    objects: dict[tuple[str, str], object]
    weights: dict[str, Checksum]
    shared: dict[tuple[Any, str], object]

    @classmethod
    def of(cls, parts: Parts) -> Snapshot:
        return cls(dict(_objects(parts)), checksums(_tensors(parts)), dict(_shared(parts)))

    def changes(self, parts: Parts) -> list[str]:
        """What differs now, in words. Shared functions are put back."""
        found: dict[str, list[str]] = {}
        now = dict(_objects(parts))
        for kind, place in {**self.objects, **now}:
            if self.objects.get((kind, place)) is not now.get((kind, place)):
                found.setdefault(kind, []).append(place)
        weights = checksums(_tensors(parts))
        if changed := [name for name in {**self.weights, **weights} if self.weights.get(name) != weights.get(name)]:
            found["changed weights"] = changed
        for (owner, name), function in self.shared.items():
            if (current := vars(owner).get(name)) is not function and not _of_torch(current):
                setattr(owner, name, function)
                found.setdefault("patched functions", []).append(f"{owner.__name__}.{name}")
        return [_told(kind, places) for kind, places in found.items()]


def _told(kind: str, places: list[str]) -> str:
    more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
    return f"{kind} ({', '.join(places[:_NAMED])}{more})"


def _modules(parts: Parts) -> Iterator[tuple[str, nn.Module]]:
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            for inside, module in part.named_modules():
                yield f"{name}.{inside}" if inside else name, module


def _tensors(parts: Parts) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            for inside, tensor in (*part.named_parameters(), *part.named_buffers()):
                found[f"{name}.{inside}"] = tensor
    return found


def _objects(parts: Parts) -> Iterator[tuple[tuple[str, str], object]]:
    for name, part in parts.items():
        yield ("exchanged parts", name), part
        if any(hasattr(part, what) for what in ("set_timesteps", "components")):  # a scheduler, or the pipeline itself
            yield from _own_functions(name, part)
    for name, module in _modules(parts):
        yield ("exchanged modules", name), module
        yield ("modules of another class", name), type(module)
        yield ("modules in training mode", name), module.training
        yield from _own_functions(name, module)
        for kind in _HOOKS:
            hooks = [hook for hook in vars(module)[kind].values() if not _of_transformers(hook)]
            for number, hook in enumerate(hooks):
                yield ("hooks", name if not number else f"{name} ({number + 1})"), hook
        if (registry := vars(module).get(_DIFFUSERS_HOOKS)) is not None:
            for label, hook in registry.hooks.items():
                yield ("hooks", f"{name} ({label})"), hook


def _of_transformers(hook: object) -> bool:
    """It captures outputs with hooks, which stay from the first call on."""
    return str(getattr(hook, "__module__", "")).startswith("transformers.")


def _of_torch(function: object) -> bool:
    """torch.compile changes nn.Module for good."""
    return str(getattr(function, "__globals__", {}).get("__name__", "")).startswith("torch.")


def _of_accelerate(function: object) -> bool:
    """A module's forward under its hooks, which a pipeline that offloads its parts puts there at every call anew."""
    return str(getattr(getattr(function, "func", None), "__module__", "")).startswith("accelerate.")


def _own_functions(name: str, owner: Any) -> Iterator[tuple[tuple[str, str], object]]:
    """Functions, and attention processors, that an object has for itself; its class's own, bound to it, is none."""
    for attribute, value in vars(owner).items():
        if not callable(value) or isinstance(value, (nn.Module, type)) or _of_accelerate(value):
            continue
        of_class = getattr(type(owner), "forward" if attribute == KEPT else attribute, None)
        if of_class is None or getattr(value, "__func__", None) is not of_class or value.__self__ is not owner:
            yield ("patched functions", f"{name}.{attribute}"), value


def _shared(parts: Parts) -> Iterator[tuple[tuple[Any, str], object]]:
    kinds = {type(part) for part in parts.values()}
    kinds |= {type(module) for _, module in _modules(parts)}
    kinds |= {type(value) for _, value in _objects(parts)}  # attention processors among them
    classes = {cls for kind in kinds for cls in kind.__mro__ if cls.__module__ != "builtins"}
    for owner in (*classes, F, torch):
        for name, value in vars(owner).items():
            if isinstance(value, (FunctionType, BuiltinFunctionType)):
                yield (owner, name), value
