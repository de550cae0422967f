"""diffusers' cache hooks on a backbone: put on for every image, taken off exactly.

Each image gets fresh hooks, and so a fresh state; `fresh_hooks` takes them off again. They go around whatever other
methods have put on a module. Decisions are diffusers': one for the whole batch. Several calls of the denoiser in one
step have contexts of their own, as diffusers calls it, whatever the pipeline sets.
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
from harness.spec import Part, Step

MARK = "_diffusers_hook"


@contextmanager
def fresh_hooks(backbone: Backbone, name: str, put_on: Callable[[], Iterable[nn.Module]]) -> Iterator[None]:
    """At an image's first step, `put_on()` puts diffusers' hooks onto the transformer's modules and says which modules
    must carry one; those of the image before are gone by then, and the last ones go on the way out.

    Raises UserError where modules carry such hooks already, when an image of one step starts, and where a module that
    should carry a hook has none.
    """
    _refuse_foreign(backbone, name)
    image, context = ExitStack(), ExitStack()
    waiting, hooked = [False], [False]  # for an image's first step; hooks are on

    def too_few(steps: int) -> None:
        if steps < 2:
            raise UserError(f"{name} needs at least two sampling steps: with one there is nothing to reuse")

    def begin() -> None:
        image.close()
        too_few(backbone.step.count)
        waiting[0], hooked[0] = True, False

    def step(now: Step) -> None:
        if waiting[0]:
            waiting[0] = False
            too_few(now.count - backbone.start)
            image.enter_context(_hooked(backbone, name, put_on))
            image.callback(context.close)
            hooked[0] = True
        if hooked[0]:
            context.close()
            # over whatever the pipeline has set
            context.enter_context(CacheMixin.cache_context(backbone.transformer, f"branch {now.branch}"))  # type: ignore[arg-type]

    with ExitStack() as stack:
        stack.callback(image.close)
        stack.enter_context(backbone.on_step(step))
        stack.enter_context(backbone.on_begin(begin))
        yield


@contextmanager
def _hooked(backbone: Backbone, name: str, put_on: Callable[[], Iterable[nn.Module]]) -> Iterator[None]:
    """Hooks for one image. Afterwards every module has the `forward` of before, in its place, or none of its own."""
    _refuse_foreign(backbone, name)
    modules = list(backbone.transformer.modules())
    before = [vars(module).get("forward") for module in modules]
    empty = [vars(module).pop(MARK, None) for module in modules]  # they remember which modules had hooks
    placed = before
    try:
        try:
            expected = put_on()
        except ValueError as error:  # diffusers knows block classes by name
            raise UserError(f"{name} cannot run on {type(backbone.transformer).__name__}: {error}") from None
        finally:
            placed = [vars(module).get("forward") for module in modules]
        if not all(_hooks(module) for module in expected):
            raise UserError(f"{name}: diffusers finds not all of {type(backbone.transformer).__name__}'s parts")
        yield
    finally:
        for module, old, new, registry in zip(modules, before, placed, empty, strict=True):
            if new is not old and vars(module).get("forward") is new:  # else somebody else has taken it off already
                put_back(module, old)
            for hook in getattr(vars(module).pop(MARK, None), "hooks", {}).values():
                # A hook and its forward refer to each other: apart, what it has kept goes now and not when garbage is
                # collected, which is off while seconds are measured.
                hook.fn_ref = None
            if registry is not None:
                vars(module)[MARK] = registry


def _hooks(module: nn.Module) -> bool:
    """Whether a module carries diffusers' hooks. A registry without any, as `cache_context` and `disable_cache` leave
    it, is none."""
    registry = vars(module).get(MARK)
    return registry is not None and bool(registry.hooks)


def put_back(module: nn.Module, forward: Callable[..., Any] | None) -> None:
    """Make this the module's own `forward`; None: it has none and uncovers its class's."""
    if forward is not None:
        module.forward = forward  # type: ignore[method-assign]
    elif "forward" in vars(module):
        del module.forward


def _refuse_foreign(backbone: Backbone, name: str) -> None:
    for where, module in backbone.transformer.named_modules():
        if _hooks(module):
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
    attach_order = 1
    least_steps = 2
    refuses: ClassVar[Mapping[str, str]] = {
        "compile": "diffusers' caches count steps and decide in Python, and each image gets fresh ones: every decision "
        "would start a new compilation"
    }
