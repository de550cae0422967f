"""How a clock learns of the images and steps of a pipeline, whichever scheduler that has at the moment."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from harness.backbones.sampler_clock import SamplerClock
from harness.errors import UserError
from harness.patching import wrapped
from harness.renamed import module_attributes

_FLAG, _PERTURBED = "do_classifier_free_guidance", "do_perturbed_attention_guidance"

if not TYPE_CHECKING:
    __getattr__ = module_attributes(__name__)


@contextmanager
def track_sampler(clock: SamplerClock, pipeline: Any, guided: bool | None = None) -> Iterator[None]:
    """Tell the clock (a backbone) of every new image that this pipeline starts, and the sampler how many steps to take.

    guided: whether the pipeline works with guidance; None: read off the pipeline, call by call. A family with distilled
    guidance has no halves all the same. pipeline: or a weak reference, so that following does not keep it alive.
    """
    current = pipeline if isinstance(pipeline, weakref.ref) else lambda: pipeline
    before = clock.guided
    clock.guided = guided if clock.batched_cfg else False
    sampler = _Sampler(clock, current)
    with ExitStack() as stack:
        stack.callback(setattr, clock, "guided", before)
        stack.callback(sampler.let_go)
        sampler.watch(current().scheduler)  # type: ignore[union-attr]  # alive: the caller holds it
        stack.enter_context(clock.before_call(sampler.look))
        if guided is None and clock.batched_cfg:
            flag = stack.enter_context(_flag(current))
            stack.enter_context(clock.before_call(lambda: setattr(clock, "guided", _halves(current(), flag()))))
        stack.enter_context(clock.to_its_end())
        yield


class _Sampler:
    """The scheduler of a pipeline, watched; another one as soon as the denoiser is called under it."""

    def __init__(self, clock: SamplerClock, current: Callable[[], Any]) -> None:
        self.clock, self.current = clock, current
        self.scheduler: Any = None
        self._watched = ExitStack()

    def watch(self, scheduler: Any) -> None:
        self.let_go()
        self.scheduler = scheduler
        # pipelines look into the signatures for what they may give, and the wrappers keep them
        around = {"set_timesteps": self._set_timesteps, "step": self._step, "set_begin_index": self._set_begin_index}
        for name, advice in around.items():
            if hasattr(scheduler, name):
                self._watched.enter_context(wrapped(scheduler, name, advice))

    def let_go(self) -> None:
        self._watched.close()

    def look(self) -> None:
        """Before a call of the denoiser: the scheduler may be another one, or may have been set before it was watched.
        Raises UserError where its steps should have been reduced."""
        pipeline = self.current()
        if pipeline is None:  # the denoiser has outlived it
            return
        scheduler = pipeline.scheduler
        if scheduler is not self.scheduler:
            self.watch(scheduler)
        elif self.clock.begun or getattr(scheduler, "num_inference_steps", None) is None:
            return
        count = len(scheduler.timesteps)
        if self.clock.sampler_steps(count) != count:
            raise UserError(
                "the sampler's steps were set before they could be reduced, as its scheduler was exchanged or set by "
                "hand: call the pipeline once more"
            )
        self.clock.reduced = False
        self._begin()

    def _begin(self) -> None:
        self.clock.begin(torch.as_tensor(self.scheduler.timesteps).tolist())
        self.clock.start = getattr(self.scheduler, "begin_index", None) or 0  # until the first call tells

    def _set_timesteps(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        clock, given = self.clock, inspect.signature(original).bind(*args, **kwargs)
        asked = given.arguments
        clock.reduced = False
        for name in ("sigmas", "timesteps"):
            if asked.get(name) is not None:
                count = clock.sampler_steps(len(asked[name]))
                clock.reduced |= count != len(asked[name])
                asked[name] = _spaced(asked[name], count)
        if (many := asked.get("num_inference_steps")) is not None:
            asked["num_inference_steps"] = clock.sampler_steps(many)
            clock.reduced |= asked["num_inference_steps"] != many
        out = original(*given.args, **given.kwargs)
        self._begin()
        return out

    def _step(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        out = original(*args, **kwargs)
        self.clock.stepped()
        return out

    def _set_begin_index(self, original: Callable[..., Any], begin_index: int = 0) -> Any:
        out = original(begin_index)
        self.clock.expect(begin_index)
        return out


def _halves(pipeline: Any, guided: bool | None) -> bool | None:
    """Perturbed-attention guidance has a third part in each batch, which no method here knows of."""
    return False if getattr(pipeline, _PERTURBED, False) else guided


@contextmanager
def _flag(current: Callable[[], Any]) -> Iterator[Callable[[], bool | None]]:
    """What tells whether the pipeline's present call has both CFG halves in its batches: its property, or what it tells
    its `encode_prompt`; None where it says nothing."""
    kind, patched = type(current()), "encode_prompt" in vars(current())
    encode = getattr(kind, "encode_prompt", None)
    guided: list[bool | None] = [None]
    if hasattr(kind, _FLAG):
        yield lambda: getattr(current(), _FLAG, None)
    elif encode is None or patched or _FLAG not in inspect.signature(encode).parameters:
        yield lambda: None
    else:
        signature, weak = inspect.signature(encode), weakref.ref(current())  # what lives on it must not keep it alive

        @functools.wraps(encode)
        def encode_prompt(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(weak(), *args, **kwargs)
            given.apply_defaults()
            guided[0] = bool(given.arguments[_FLAG])
            return encode(weak(), *args, **kwargs)

        own = signature.replace(parameters=list(signature.parameters.values())[1:])
        encode_prompt.__signature__ = own  # type: ignore[attr-defined]
        current().encode_prompt = encode_prompt
        try:
            yield lambda: guided[0]
        finally:
            if (left := current()) is not None:
                del left.encode_prompt


def _spaced(levels: Sequence[float], count: int) -> Sequence[float]:
    """Noise levels, which fall to 0 behind the last one, at this count: spread over the same curve."""
    if count == len(levels):
        return levels
    curve = torch.tensor([*map(float, levels), 0.0], dtype=torch.float64)
    place = torch.arange(count, dtype=torch.float64) * len(levels) / count
    left = place.long()
    return torch.lerp(curve[left], curve[left + 1], place - left).tolist()  # type: ignore[no-any-return]
