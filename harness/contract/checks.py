"""The checks of one method on one family. Each takes a `Subject` and raises `Broken` where the contract is."""

from __future__ import annotations

from collections.abc import Callable

import torch

from harness.attach import attached
from harness.contract.subject import Subject, build, state_for
from harness.leftovers import Snapshot
from harness.measure.torch_counter import counting
from harness.process_state import ProcessState


class Broken(Exception):
    """A promise of the contract is not kept; the message says how."""


class NotApplicable(Exception):
    """The contract has nothing to say about this method here; the message says why."""


class _Stop(Exception):
    """Raised on purpose while a method is on."""


def shapes(subject: Subject) -> None:
    """The images' shapes are dense's, their values finite: one image, three at once, an odd grid of tokens."""
    first, *others = subject.tiny.sizes
    for images, size in ((1, first), (3, first), *((1, size) for size in others)):
        expected = subject.tiny.generate(images, 0, size).shape
        latents = subject.draw(images, 0, size)
        if latents.shape != expected:
            raise Broken(f"{images} images: latents of shape {tuple(latents.shape)}, expected {tuple(expected)}")
        if not latents.isfinite().all():
            raise Broken(f"{images} images: the latents hold NaN or infinite values")


def effect(subject: Subject) -> None:
    """No silent no-op: another image than dense's, for fewer multiply-accumulates."""
    if not subject.method.compresses:
        raise NotApplicable("it does not claim to save anything (compresses = False)")
    with counting() as dense:
        subject.tiny.generate()
    with attached(subject.tiny.backbone, subject.method, subject.state), counting() as fewer:
        latents = subject.tiny.generate()
    if subject.method.adaptive and fewer.total == dense.total:
        raise NotApplicable("how much it saves depends on the image, and on this one it saved nothing")
    if torch.equal(latents, subject.dense):
        raise Broken("it changed nothing: the latents are dense's, bit for bit")
    if fewer.total >= dense.total:
        raise Broken(f"it saved nothing: {fewer.total} multiply-accumulates, dense takes {dense.total}")


def identity(subject: Subject) -> None:
    """At ratio 0 it is the dense model, bit for bit."""
    if "ratio" not in subject.cls.Settings.model_fields:
        raise NotApplicable("it has no ratio")
    none = build(subject.cls, {**subject.settings, "ratio": 0.0})
    with attached(subject.tiny.backbone, none, state_for(none, subject.tiny)):
        latents = subject.tiny.generate()
    if not torch.equal(latents, subject.dense):
        raise Broken(f"at ratio 0 the latents differ from dense's by up to {_distance(latents, subject.dense)}")


def removal(subject: Subject) -> None:
    """Taken off, also by an exception, it leaves the model as it was, bit for bit."""
    model = {"transformer": subject.tiny.backbone.transformer}
    dense, before = subject.dense, Snapshot.of(model)
    subject.draw()
    try:
        with attached(subject.tiny.backbone, subject.method, subject.state):
            raise _Stop
    except _Stop:
        pass
    if left := before.changes(model):
        raise Broken(f"it left behind: {', '.join(left)}")
    if not torch.equal(again := subject.tiny.generate(), dense):
        raise Broken(f"the dense latents differ afterwards by up to {_distance(again, dense)}")


def repeat(subject: Subject) -> None:
    """The same case twice gives the same bits."""
    if not torch.equal(first := subject.draw(), again := subject.draw()):
        raise Broken(f"the second time the latents differ by up to {_distance(first, again)}; seed what is random")


def state(subject: Subject) -> None:
    """Nothing goes over from one image to the next while the method stays on."""
    with attached(subject.tiny.backbone, subject.method, subject.state):
        first = subject.tiny.generate()
        subject.tiny.generate(3, seed=7)
        again = subject.tiny.generate()
    if not torch.equal(first, again):
        raise Broken(
            f"behind other images the latents differ by up to {_distance(first, again)}; reset what is kept in "
            "`backbone.on_begin`, and seed what is random by image, step and layer"
        )


def process(subject: Subject) -> None:
    """The global random state and the process's settings stay untouched."""
    random, now = torch.get_rng_state(), ProcessState.now()
    subject.draw()
    drawn = not torch.equal(torch.get_rng_state(), random)
    if changed := now.restore():
        raise Broken(f"it changed {', '.join(changed)}")
    if drawn:
        raise Broken("it drew from torch's global generator; use a torch.Generator of its own")


CHECKS: dict[str, Callable[[Subject], None]] = {
    "output shapes": shapes,
    "changes images, saves FLOPs": effect,
    "ratio 0 is dense": identity,
    "exact removal": removal,
    "same case, same bits": repeat,
    "no state between images": state,
    "process untouched": process,
}
"""By the name that a report gives them."""


def _distance(a: torch.Tensor, b: torch.Tensor) -> str:
    return f"{(a.float() - b.float()).abs().max().item():.3g}" if a.shape == b.shape else "their shape"
