"""Where the sampler is: the clock that every backbone has, and how it learns of a pipeline's images and steps."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import torch

from harness.patching import wrapped
from harness.spec import Step


class SamplerClock(ABC):
    """The current sampling step of a denoiser, and who wants to know of it.

    halves: False where guidance is distilled into the model, so that no batch holds CFG halves. guided: whether the
    batches of a generation hold both CFG halves, the unconditional one first; None: unknown.
    """

    halves: ClassVar[bool] = True

    def __init__(self) -> None:
        self._clock: Step | None = None
        self._timesteps: Sequence[float] = ()
        self._held = False
        self._resets: list[Callable[[], None]] = []
        self._followers: list[Callable[[Step], None]] = []
        self._shortened: list[Callable[[int], int]] = []
        self.guided: bool | None = None

    @abstractmethod
    def _watch(self) -> AbstractContextManager[None]:
        """Within the context every call of the denoiser runs `_advance` first."""

    @property
    def step(self) -> Step:
        """Where the sampler is. Raises RuntimeError outside a generation."""
        if self._clock is None:
            raise RuntimeError("the sampling step is unknown: call begin() or use at()")
        return self._clock

    def begin(self, timesteps: Sequence[float]) -> None:
        """A new image starts: the sampler will visit these timesteps. Resets state that lives across steps."""
        self._timesteps = tuple(float(t) for t in timesteps)
        self._clock = Step(-1, len(self._timesteps), float("nan"))
        for reset in self._resets:
            reset()

    @contextmanager
    def at(self, step: Step) -> Iterator[None]:
        """Pin the clock, as training does."""
        before, held = self._clock, self._held
        self._clock, self._held = step, True
        self._tell()
        try:
            yield
        finally:
            self._clock, self._held = before, held

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Calls of the transformer in here do not advance the clock (replays for counting)."""
        before, self._held = self._held, True
        try:
            yield
        finally:
            self._held = before

    @contextmanager
    def shortened(self, steps: Callable[[int], int]) -> Iterator[None]:
        """Samplers take `steps(n)` steps where they were asked for n."""
        self._shortened.append(steps)
        try:
            yield
        finally:
            self._shortened.remove(steps)

    def sampler_steps(self, asked: int) -> int:
        """How many steps a sampler takes that was asked for so many."""
        for steps in self._shortened:
            asked = steps(asked)
        return asked

    @contextmanager
    def on_begin(self, reset: Callable[[], None]) -> Iterator[None]:
        """Call `reset` whenever a new image starts."""
        self._resets.append(reset)
        try:
            yield
        finally:
            self._resets.remove(reset)

    @contextmanager
    def on_step(self, follower: Callable[[Step], None]) -> Iterator[None]:
        """Call `follower` with the current step and with every one that the sampler reaches.

        That happens outside of what torch.compile traces: advice that reads what the follower left needs a graph for
        each of its values, advice that reads `call.step.index` one for each step.
        """
        self._followers.append(follower)
        if self._clock is not None and self._clock.index >= 0:
            follower(self._clock)
        try:
            with self._watch():
                yield
        finally:
            self._followers.remove(follower)

    def _advance(self) -> None:
        """The sampler calls the transformer: the next step begins, unless the clock is pinned or held."""
        if self._held or self._clock is None:
            return
        index = min(self._clock.index + 1, len(self._timesteps) - 1)
        self._clock = Step(index, len(self._timesteps), self._timesteps[index])
        self._tell()

    def _tell(self) -> None:
        assert self._clock is not None
        for follower in self._followers:
            follower(self._clock)


@contextmanager
def follow(clock: SamplerClock, pipeline: Any, guided: bool | None = None) -> Iterator[None]:
    """Tell the clock (a backbone) of every new image that this pipeline starts, and the sampler how many steps to take.

    guided: whether the pipeline works with guidance; a family with distilled guidance has no halves all the same.
    """
    scheduler = pipeline.scheduler
    signature = inspect.signature(scheduler.set_timesteps)
    before, clock.guided = clock.guided, guided if clock.halves else False

    def set_timesteps(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        asked = given.arguments
        for name in ("sigmas", "timesteps"):
            if asked.get(name) is not None:
                asked[name] = _spaced(asked[name], clock.sampler_steps(len(asked[name])))
        if asked.get("num_inference_steps") is not None:
            asked["num_inference_steps"] = clock.sampler_steps(asked["num_inference_steps"])
        out = original(*given.args, **given.kwargs)
        clock.begin(torch.as_tensor(scheduler.timesteps).tolist())
        return out

    try:
        # pipelines look into the signature for what they may give, and the wrapper keeps it
        with wrapped(scheduler, "set_timesteps", set_timesteps):
            yield
    finally:
        clock.guided = before


def _spaced(levels: Sequence[float], count: int) -> Sequence[float]:
    """Noise levels, which fall to 0 behind the last one, at this count: spread over the same curve."""
    if count == len(levels):
        return levels
    curve = torch.tensor([*map(float, levels), 0.0], dtype=torch.float64)
    place = torch.arange(count, dtype=torch.float64) * len(levels) / count
    left = place.long()
    return torch.lerp(curve[left], curve[left + 1], place - left).tolist()  # type: ignore[no-any-return]
