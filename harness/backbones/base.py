"""The narrow view of a DiT that methods get, and the machinery that puts advice around its parts.

Advice goes around a module's `forward` as an instance attribute and is deleted on the way out: class, state-dict
keys and weights stay as they were, so the model is restored bit for bit.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from harness import renamed
from harness.backbones.compiled_blocks import CompiledBlocks
from harness.backbones.family import Family
from harness.backbones.sampler_clock import SamplerClock
from harness.errors import UserError
from harness.kernels import routing
from harness.patching import wrapped
from harness.spec import Advice, Call, Grid, Part

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _nothing(call: Call) -> Tensor:
    """Advice that is none: for the way around a part alone."""
    return call.run(call.x)


class Backbone(Family, SamplerClock, old_names=renamed.BACKBONE):
    """One DiT. Its family says which module each part is, and how the part's tensors go in and out; time, and whether
    batches hold CFG halves, are the sampler clock's."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer
        self._advice: dict[tuple[int, Part], list[Advice]] = {}
        self._bound: dict[tuple[int, Part], Any] = {}
        self._grid: Grid | None = None
        self._index: Tensor | None = None
        self._listeners: list[Callable[[Tensor], None]] = []
        self._watching = 0
        self._unchecked = False
        self._compiled: CompiledBlocks | None = None
        self._names = list(inspect.signature(type(transformer).forward).parameters)[1:]

    # -- place -----------------------------------------------------------------------------------------------

    @property
    def layers(self) -> int:
        return len(self.blocks)

    @property
    def grid(self) -> Grid:
        if self._grid is None:
            raise RuntimeError("the token grid is unknown before the first call of the transformer")
        return self._grid

    @property
    def tokens(self) -> int:
        """How many tokens the call of the transformer that runs is about: the grid's, or a subset."""
        return self.grid.tokens if self._index is None else self._index.shape[1]

    @contextmanager
    def on_call(self, listener: Callable[[Tensor], None]) -> Iterator[None]:
        """Call `listener` with the latents (B, ...) of every call of the transformer, after the clock moved and before
        the first block runs."""
        self._listeners.append(listener)
        try:
            with self._watch():
                yield
        finally:
            self._listeners.remove(listener)

    def announce(self, **given: Any) -> None:
        """Who listens to calls of the transformer hears of one with these arguments now: what is drawn for it is there
        when it is made."""
        self._enter(self.transformer, (), given)

    # -- advice ----------------------------------------------------------------------------------------------

    @contextmanager
    def advise(self, part: Part, advice: Advice, layers: Sequence[int] | None = None) -> Iterator[None]:
        """Put advice around a part of these layers (all by default). Of several, the first one is outermost."""
        chosen = list(range(self.layers)) if layers is None else list(layers)
        if lacking := [layer for layer in chosen if part not in self.parts_of(layer)]:
            where = "" if len(lacking) == self.layers else f" in layers {', '.join(map(str, lacking))}"
            raise UserError(f"{type(self.transformer).__name__} has no separate {part!r} part to advise{where}")
        with self._watch(), ExitStack() as stack:
            for layer in chosen:
                self._install(layer, part)
                self._advice[layer, part].append(advice)
                stack.callback(self._take_off, layer, part, advice)
            yield

    @contextmanager
    def compiled_blocks(self, mode: str = "default") -> Iterator[None]:
        """Blocks run compiled, see `CompiledBlocks`; advice around them runs as it is, but for what it has `compiled`,
        and advice inside them is compiled along, layer by layer. mode: torch.compile's."""
        before, self._compiled = self._compiled, CompiledBlocks(mode)
        try:
            with self._compiled.on(), self.advise("block", _nothing):
                yield
        finally:
            self._compiled = before

    def compiled(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """The function, compiled where blocks are: for advice whose own work is many small operators. It is one of a
        module, of tensors and numbers, and the same for all layers."""
        here = self._compiled
        return function if here is None or torch.compiler.is_compiling() else here.function(function)

    @contextmanager
    def unchecked(self) -> Iterator[None]:
        """Parts may hand on another number of tokens than they were given."""
        self._unchecked = True
        try:
            yield
        finally:
            self._unchecked = False

    def sole_advice(self, layer: int, part: Part, advice: Advice) -> bool:
        """Whether this advice, and no other, is around a part."""
        return self._advice.get((layer, part)) == [advice]

    def _take_off(self, layer: int, part: Part, advice: Advice) -> None:
        self._advice[layer, part].remove(advice)
        if not self._advice[layer, part]:
            del self._advice[layer, part]
            module = self.module(layer, part)
            del module.forward  # uncovers the class's own method
            if (bound := self._bound.pop((layer, part), None)) is not None:
                module.forward = bound  # type: ignore[method-assign]

    @contextmanager
    def _watch(self) -> Iterator[None]:
        """Follow the transformer's calls (grid and step) while any advice is on."""
        self._watching += 1
        if self._watching == 1:
            self._hook = self.transformer.register_forward_pre_hook(self._enter, with_kwargs=True)
        try:
            yield
        finally:
            self._watching -= 1
            if not self._watching:
                self._hook.remove()

    @torch.compiler.disable  # it reads the timestep, and what follows a step may draw random numbers
    def _enter(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._grid, self._index = self.grid_of(args, kwargs), self.index_of(args, kwargs)
        self._advance(self.timestep_of(args, kwargs), self.timestep_unit)
        for listener in self._listeners:
            listener(args[0] if args else kwargs["hidden_states"])

    def _install(self, layer: int, part: Part) -> None:
        if (layer, part) in self._advice:
            return
        module = self.module(layer, part)
        own = vars(module).get("forward")
        if own is not None:
            # the class's method, set on the instance: no patch, but what disabled diffusers caches leave behind
            if getattr(own, "__func__", None) is type(module).forward and own.__self__ is module:
                self._bound[layer, part] = own
            else:
                raise UserError(f"the {part} of layer {layer} is patched by something else; remove that first")
        self._advice[layer, part] = []
        original = module.forward
        names = list(inspect.signature(original).parameters)[1:]

        def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            chain = tuple(one for one in self._advice[layer, part] if one is not _nothing)
            kwargs = dict(zip(names, args, strict=False)) | kwargs  # gradient checkpointing gives them by position
            image, text = self.split_streams(layer, part, hidden_states, kwargs)
            texts = [self.text_when_skipped(part, text)]

            def innermost(x: Tensor, given: dict[str, Any], now: Tensor | None) -> Tensor:
                compiled = self._compiled if part == "block" else None
                forward = original if compiled is None else compiled.forward(module)
                out, texts[0] = self.run_part(layer, part, forward, x, text, given, now)
                return out

            out = self._rest(layer, part, chain, text, innermost, self._index, kwargs)(image)
            if out.shape != image.shape and not self._unchecked:
                raise ValueError(
                    f"the {part} of layer {layer} gave a tensor of shape {tuple(out.shape)}, "
                    f"expected {tuple(image.shape)}"
                )
            return self.merge_streams(layer, part, out, texts[0])

        module.forward = forward  # type: ignore[method-assign]

    def _rest(
        self,
        layer: int,
        part: Part,
        chain: tuple[Advice, ...],
        text: Tensor | None,
        innermost: Callable[[Tensor, dict[str, Any], Tensor | None], Tensor],
        outer_index: Tensor | None,
        given: dict[str, Any],
    ) -> Callable[..., Tensor]:
        """What `Call.run` does: the rest of a chain of advice, and then `innermost` with the tokens, arguments and
        index. It refers to no function that refers to it, so that what a call held goes with the call, and no garbage
        collection has to find it (Flux's text stream is most of a block's output)."""

        def run(x: Tensor, index: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
            # A subset of a subset is a subset of the grid.
            now = outer_index
            if index is not None:
                now = index if outer_index is None else outer_index.gather(1, index)
            part_kwargs = given if sizes is None else given | self.key_weight_kwargs(sizes)
            if not chain:
                return innermost(x, part_kwargs, now)
            rest = self._rest(layer, part, chain[1:], text, innermost, now, part_kwargs)
            last = part == "block" and not chain[1:]
            own = self.run_rows(layer, part_kwargs) if last and routing.usable(x) else None
            rows = own if own is None or self._compiled is None else self._compiled.rows(own)
            return chain[0](Call(x, layer, part, self.step, self.grid, rest, part_kwargs, now, text, rows))

        return run

    @contextmanager
    def around(self, advice: Callable[..., Any]) -> Iterator[None]:
        """Put `advice(forward, *args, **kwargs)` around the whole transformer's forward. The last one is outermost."""

        def indexed(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            self._index = self.index_of(args, kwargs)  # the advice may have changed the batch
            return inner(*args, **kwargs)

        def advised(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return advice(functools.partial(indexed, inner), *args, **kwargs)

        with wrapped(self.transformer, "forward", advised), self._watch():
            yield
