"""Where the sampler is: the clock that every backbone has.

It goes by the timestep that each call of the denoiser carries: the same timestep again is the same step (another branch
of it), and a jump is followed to where it leads. A timestep that lies on a GPU is not waited for when the sampler has
just stepped: the call is taken for the next step, and held against what it carried one call later. Else the GPU would
stand still at every step until Python has launched its next work.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar, TypeGuard

import torch
from torch import Tensor

from harness import renamed
from harness.errors import UserError
from harness.spec import Step


class SamplerClock(renamed.Renamed, ABC, old_names=renamed.SAMPLER_CLOCK):
    """The current sampling step of a denoiser, and who wants to know of it.

    batched_cfg: whether guided batches hold both CFG halves; False where guidance is distilled into the model.
    guided: whether the batches of a generation hold both CFG halves, the unconditional one first; None: unknown.
    reduced: whether the sampler takes fewer steps than the pipeline asked it for.
    start: index of the present image's first step, above 0 where the sampler starts from a noised image.
    """

    batched_cfg: ClassVar[bool] = True

    def __init__(self) -> None:
        self._clock: Step | None = None
        self._timesteps: Sequence[float] = ()
        self._frozen = False
        self._stepped = False  # the sampler has stepped since the last call of the denoiser
        self._unread: _Unread | None = None  # the timestep of the last call, where nobody has waited for it
        self._resets: list[Callable[[], None]] = []
        self._followers: list[Callable[[Step], None]] = []
        self._reductions: list[Callable[[int], int]] = []
        self._before_call: list[Callable[[], None]] = []
        self.guided: bool | None = None
        self.reduced = False
        self.start = 0

    @abstractmethod
    def _watch(self) -> AbstractContextManager[None]:
        """Within the context every call of the denoiser runs `_advance` first."""

    @property
    def step(self) -> Step:
        """Where the sampler is. Raises RuntimeError outside a generation."""
        if self._clock is None:
            raise RuntimeError("the sampling step is unknown: call begin() or use at()")
        return self._clock

    @property
    def begun(self) -> bool:
        """Whether a sampler has started an image."""
        return self._clock is not None

    def begin(self, timesteps: Sequence[float]) -> None:
        """A new image starts: the sampler will visit these timesteps, or the later ones of them. Resets state that
        lives across steps. Raises UserError, behind all else, where the last call of the image before was at another
        step than it was taken for."""
        jump = self._jump()
        self._timesteps = tuple(float(t) for t in timesteps)
        self._clock = Step(-1, len(self._timesteps), float("nan"))
        self._stepped, self.start = False, 0
        for reset in self._resets:
            reset()
        if jump:
            raise UserError(jump)

    def forget(self) -> None:
        """Let go of what lives across the steps of an image, as when the next one starts."""
        if self._clock is not None:
            self.begin(self._timesteps)

    def expect(self, start: int) -> None:
        """The image's first step is this one. Raises UserError for a later one where the steps were reduced."""
        if start and self.reduced:
            raise UserError(
                "the pipeline starts in the middle of its steps (strength below 1), and these were reduced without its "
                "knowledge, so that it would start at another noise level: ask the pipeline for fewer steps instead"
            )
        self.start = start

    def stepped(self) -> None:
        """The sampler has made its step: the next call of the denoiser belongs to another one."""
        self._stepped = True

    @contextmanager
    def at(self, step: Step) -> Iterator[None]:
        """Pin the clock, as training does."""
        before, frozen, start = self._clock, self._frozen, self.start
        self._clock, self._frozen, self.start = step, True, 0
        self._tell()
        try:
            yield
        finally:
            self._clock, self._frozen, self.start = before, frozen, start

    @contextmanager
    def freeze_step(self) -> Iterator[None]:
        """Calls of the transformer in here do not advance the clock (replays for counting)."""
        before, self._frozen = self._frozen, True
        try:
            yield
        finally:
            self._frozen = before

    @contextmanager
    def reduced_steps(self, steps: Callable[[int], int]) -> Iterator[None]:
        """Samplers take `steps(n)` steps where they were asked for n."""
        self._reductions.append(steps)
        try:
            with self._watch():  # so that a sampler that was not asked is noticed
                yield
        finally:
            self._reductions.remove(steps)

    def sampler_steps(self, asked: int) -> int:
        """How many steps a sampler takes that was asked for so many."""
        for steps in self._reductions:
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
        """Call `follower` with the current step and before every call of the denoiser with its step.

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

    @contextmanager
    def before_call(self, look: Callable[[], None]) -> Iterator[None]:
        """Call `look` before the clock reads a call of the denoiser."""
        self._before_call.append(look)
        try:
            yield
        finally:
            self._before_call.remove(look)

    def _advance(self, timestep: Tensor | float | None, unit: float = 1.0) -> None:
        """The sampler calls the denoiser at a timestep, whose `unit` is so many of the sampler's; None: its calls carry
        none, and each is a step. A pinned or frozen clock stays. Raises UserError for a timestep that is none of the
        sampler's."""
        if self._frozen:
            return
        for look in self._before_call:
            look()
        if self._clock is None:
            return
        if jump := self._jump():
            raise UserError(jump)
        last = self._clock
        expected = self.start if last.index < 0 else last.index + self._stepped
        if timestep is None:
            index = (last.index + 1) % last.count
        elif 0 <= last.index < expected < last.count and _takes_waiting(timestep):
            index, self._unread = expected, _Unread(timestep, unit, expected)
        else:
            index = self._place(timestep, unit, expected)
        again = index == last.index and not self._stepped and timestep is not None
        if last.index >= 0 and index <= last.index and not again:  # back: another image, with the same timesteps
            self.begin(self._timesteps)
            last = self._clock
        if last.index < 0:
            self.expect(index)
        self._clock = Step(index, last.count, self._timesteps[index], last.branch + 1 if again else 0)
        self._stepped = False
        self._tell()

    @contextmanager
    def to_its_end(self) -> Iterator[None]:
        """What runs inside has ended at its end: its last call, too, is held against its timestep there. Raises
        UserError."""
        try:
            yield
        except BaseException:
            self._unread = None
            raise
        if jump := self._jump():
            raise UserError(jump)

    def _jump(self) -> str:
        """How the last call was at another step than it was taken for; "" where it was not."""
        unread, self._unread = self._unread, None
        if unread is None:
            return ""
        timestep = unread.read()
        if self._place(timestep, unread.unit, unread.expected) == unread.expected:
            return ""
        return (
            f"the sampler jumped from step {unread.expected} of {len(self._timesteps)} to timestep "
            f"{float(timestep.flatten()[0]) * unread.unit:.6g}, which is not that of the next step: with its timesteps "
            "on a GPU, a pipeline has to take its steps in their order, and to set its timesteps for every image"
        )

    def _place(self, timestep: Tensor | float, unit: float, expected: int) -> int:
        """Which of the sampler's steps has this timestep: the expected one of several, else the nearest."""
        rounding = 1e-6
        if isinstance(timestep, Tensor):
            if timestep.is_floating_point():
                rounding = max(rounding, torch.finfo(timestep.dtype).eps)  # rounded twice: by half of it each time
            timestep = float(timestep.flatten()[0])
        here = timestep * unit
        slack = 1.01 * rounding * max(1.0, abs(here))
        found = [index for index, t in enumerate(self._timesteps) if abs(t - here) <= slack]
        if not found:
            raise UserError(
                f"the denoiser was called at timestep {here:.6g}, which is none of the {len(self._timesteps)} that the "
                "pipeline's sampler has set, so that its steps cannot be followed: no method can run on it"
            )
        if expected in found:
            return expected
        return min(found, key=lambda index: (abs(self._timesteps[index] - here), abs(index - expected)))

    def _tell(self) -> None:
        assert self._clock is not None
        for follower in self._followers:
            follower(self._clock)


class _Unread:
    """A timestep on its way from the device. expected: the step that it should be."""

    def __init__(self, timestep: Tensor, unit: float, expected: int) -> None:
        self.unit, self.expected = unit, expected
        self._value = timestep.flatten()[:1].to("cpu", non_blocking=True)
        self._there = torch.cuda.Event() if timestep.is_cuda else None
        if self._there is not None:
            self._there.record(torch.cuda.current_stream(timestep.device))

    def read(self) -> Tensor:
        if self._there is not None:
            self._there.synchronize()
        return self._value


def _takes_waiting(timestep: Tensor | float) -> TypeGuard[Tensor]:
    return isinstance(timestep, Tensor) and timestep.is_cuda
