"""diffusers' cache hooks on a backbone: put on for every image, taken off exactly.

Each image gets fresh hooks, and so a fresh state; `fresh_hooks` takes them off again. They go around whatever other
methods have put on a module. Decisions are diffusers': one for the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

from diffusers import CacheMixin
from torch import nn

from harness.backbones.base import Backbone
from harness.errors import UserError
from harness.method import Method
from harness.spec import Part

MARK = "_diffusers_hook"


@contextmanager
def fresh_hooks(backbone: Backbone, name: str, put_on: Callable[[], Iterable[nn.Module]]) -> Iterator[None]:
    """Whenever an image starts, `put_on()` puts diffusers' hooks onto the transformer's modules and says which modules
    must carry one; those of the image before go first, and the last ones on the way out.

    Raises UserError where modules carry such hooks already, when a one-step image starts, and where a module that
    should carry a hook has none.
    """
    _refuse_foreign(backbone, name)
    image = ExitStack()

    def begin() -> None:
        image.close()
        if backbone.step.count < 2:
            raise UserError(f"{name} needs at least two sampling steps: with one there is nothing to reuse")
        image.enter_context(_hooked(backbone, name, put_on))

    with ExitStack() as stack:
        stack.callback(image.close)
        stack.enter_context(backbone.on_step(lambda _step: None))  # the clock runs, though nothing is advised
        stack.enter_context(backbone.on_begin(begin))
        yield


@contextmanager
def _hooked(backbone: Backbone, name: str, put_on: Callable[[], Iterable[nn.Module]]) -> Iterator[None]:
    """Hooks for one image. Afterwards every module has the `forward` of before, in its place, or none of its own."""
    _refuse_foreign(backbone, name)
    modules = list(backbone.transformer.modules())
    before = [vars(module).get("forward") for module in modules]
    placed = before
    try:
        try:
            expected = put_on()
        except ValueError as error:  # diffusers knows block classes by name
            raise UserError(f"{name} cannot run on {type(backbone.transformer).__name__}: {error}") from None
        finally:
            placed = [vars(module).get("forward") for module in modules]
        if any(MARK not in vars(module) for module in expected):
            raise UserError(f"{name}: diffusers finds not all of {type(backbone.transformer).__name__}'s parts")
        with CacheMixin.cache_context(backbone.transformer, "image"):  # type: ignore[arg-type]
            yield
    finally:
        for module, old, new in zip(modules, before, placed, strict=True):
            if new is not old and vars(module).get("forward") is new:  # else somebody else has taken it off already
                put_back(module, old)
            vars(module).pop(MARK, None)


def put_back(module: nn.Module, forward: Callable[..., Any] | None) -> None:
    """Make this the module's own `forward`; None: it has none and uncovers its class's."""
    if forward is not None:
        module.forward = forward  # type: ignore[method-assign]
    elif "forward" in vars(module):
        del module.forward


def _refuse_foreign(backbone: Backbone, name: str) -> None:
    for where, module in backbone.transformer.named_modules():
        if MARK in vars(module):
            raise UserError(
                f"{name}: {where or 'the transformer'} carries a diffusers hook already; take it off first, for "
                "instance with disable_cache()"
            )


def parts_of(backbone: Backbone, *parts: Part) -> list[nn.Module]:
    """These parts of all layers that have them."""
    layers = range(backbone.layers)
    return [backbone.module(layer, part) for layer in layers for part in parts if part in backbone.parts_of(layer)]


class Cache(Method):
    """What all caches here share: hooks, outside of any part's advice."""

    parts = frozenset()
    rank = 1
    least_steps = 2
    refuses: ClassVar[Mapping[str, str]] = {
        "compile": "diffusers' caches count steps and decide in Python, and each image gets fresh ones: torch.compile "
        "would compile anew all the time"
    }
