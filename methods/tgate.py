"""T-GATE (Zhang et al., 2024, "Cross-Attention Makes Inference Cumbersome in Text-to-Image Diffusion Models").

Cross-attention settles in the first sampling steps. From the gate step on, every layer's cross-attention gives what it
gave there, averaged over the two halves of classifier-free guidance; nothing depends on the text any more, so that one
half runs alone, without guidance (Sec. 4). The authors' later code also reuses self-attention between the first steps
and the gate step, every fifth step aside; `self_interval=5` does that, and it is off by default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from harness import guidance
from harness.backbones.base import Backbone
from harness.errors import UserError
from harness.method import Method, MethodSettings
from harness.spec import Call, State, Step


class TGateSettings(MethodSettings):
    gated: float = Field(
        0.5, ge=0.0, le=0.95, description="share of the sampler's steps, at the end, with frozen cross-attention"
    )
    self_interval: int = Field(
        1, ge=1, le=20, description="between the warm-up and the gate step, self-attention runs at the steps that this "
        "divides, and gives its last output at the others; 1: it runs at all (the authors' later code: 5)",
    )  # fmt: skip
    warm_up: int = Field(2, ge=1, le=100, description="first steps, at which all self-attention runs (theirs: 2)")


class TGate(Method):
    """Freeze cross-attention after a gate step, and stop guidance with it.

    Where a generation has no guidance (`backbone.guided` is False), each sample's own outputs are frozen. A generation
    that starts behind the gate step (strength below 1) gates at its first step.
    """

    name = "tgate"
    Settings = TGateSettings
    parts = frozenset({"cross_attention", "self_attention"})
    source = "Zhang et al., 2024, Cross-Attention Makes Inference Cumbersome in Text-to-Image Diffusion Models"
    reuses = "parts"
    copes = frozenset({"late start"})
    least_steps = 2
    strength = "gated"
    sweep = (0.3, 0.5, 0.7)

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        settings: TGateSettings = self.settings  # type: ignore[assignment]
        frozen: dict[int, Tensor] = {}  # layer -> (B / 2, N, D) under guidance, else (B, N, D)
        phase: list[Literal["full", "gate", "gated"]] = ["full"]
        both = [False]  # whether the batch holds both halves
        last: dict[int, Tensor] = {}  # layer -> what its self-attention gave last, (B, N, D)
        again = [False]  # whether that is given again

        def begin() -> None:
            frozen.clear()
            last.clear()
            phase[0], both[0] = "full", False
            if backbone.step.count < 2:
                raise UserError("tgate needs at least two sampling steps: with one there is nothing to reuse")

        def follow(step: Step) -> None:
            gated = step.count - gated_steps(settings.gated, step.count)
            first = max(gated, backbone.start + 1)  # the first gated step
            if step.index >= first:
                phase[0] = "gated" if frozen else "full"  # full: the clock was set by hand, and nothing is kept
            else:
                phase[0] = "gate" if step.index == first - 1 and first < step.count else "full"
            done = step.index - backbone.start
            again[0] = (
                bool(last) and phase[0] == "full" and done >= settings.warm_up and done % settings.self_interval != 0
            )

        def cross(call: Call) -> Tensor:
            if phase[0] == "gated":
                return frozen[call.layer]
            out = call.run(call.x)
            if phase[0] == "gate":
                frozen[call.layer] = guidance.mean(out) if both[0] else out
            return out

        def own(call: Call) -> Tensor:
            if again[0]:
                return last[call.layer]
            out = call.run(call.x)
            if phase[0] != "gated":
                last[call.layer] = out
            return out

        def denoise(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if phase[0] == "gate":
                both[0] = guidance.guided(backbone.guided, guidance.first((args, kwargs)))
            if phase[0] != "gated" or not both[0]:
                return forward(*args, **kwargs)
            args, kwargs = guidance.conditional((args, kwargs), len(guidance.first((args, kwargs))))
            return guidance.twice(forward(*args, **kwargs))

        with ExitStack() as stack:
            stack.enter_context(backbone.on_begin(begin))
            stack.enter_context(backbone.on_step(follow))
            stack.enter_context(backbone.advise("cross_attention", cross))
            if settings.self_interval > 1:
                stack.enter_context(backbone.advise("self_attention", own))
            stack.enter_context(backbone.around(denoise))
            yield


def gated_steps(share: float, count: int) -> int:
    """How many of `count` sampling steps run gated; the first one never does."""
    return min(round(share * count), count - 1)
