"""Learned layer caching (Learning-to-Cache; Ma et al., NeurIPS 2024): which parts of which layers reuse, at every other
sampling step, what they gave at the step before.

Trained as the paper tells: the model stays as it is; at a reusing step each part gives gate * computed + (1 - gate) *
reused, and the loss is the distance to the dense model's prediction and the sum of the gates (Eq. 9). Only reusing
steps are drawn, and every one has gates of its own: a batch's timesteps lie next to one sampling step, what it reuses
comes from the step before on the same noise, and only that step's gates get a gradient. At inference the parts with the
lowest gates reuse, so many as the ratio says, instead of all below a threshold, so that one training serves every ratio
(ours).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.backbones.base import Backbone
from harness.method import Fitting, Method, MethodSettings, SeedSettings
from harness.spec import Call, Part, State

_PARTS: tuple[Part, ...] = ("self_attention", "cross_attention", "mlp")


class L2CSettings(SeedSettings):
    ratio: float = Field(
        0.2, ge=0.0, le=0.5, description="share of all parts, over layers and steps, that reuse an earlier output"
    )


class L2CFit(MethodSettings):
    weight: float = Field(1e-4, gt=0, description="weight of the sum of the gates in the loss (lambda)")
    gate_lr: float = Field(50.0, gt=0, description="multiple of the base learning rate for the gates (ours)")
    start: float = Field(
        0.5, gt=0, lt=1, description="all gates at the start; one half favours neither computing nor reusing (ours)"
    )


class L2C(Method):
    """Every other step reuses, in the parts that learned to."""

    name = "l2c"
    Settings = L2CSettings
    FitSettings = L2CFit
    parts = frozenset(_PARTS)
    needs_state = True
    source = "Ma et al., 2024, Learning-to-Cache: Accelerating Diffusion Transformer via Layer Caching"
    training = "trained"
    reuses = "parts"
    least_steps = 2
    refuses: ClassVar[Mapping[str, str]] = {
        "fewer-steps": "the gates belong to the sampling steps that l2c was trained for"
    }

    def adapter(self) -> str:
        return f"{self.name}{self.seed_suffix}"

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        assert state is not None
        table: list[list[list[bool]]] = reused(state.tensors["gates"], self.ratio or 0.0).tolist()
        held: dict[tuple[int, Part], Tensor] = {}

        def part(call: Call) -> Tensor:
            if call.step.count != len(table):
                raise ValueError(f"l2c was trained for {len(table)} sampling steps, not for {call.step.count}")
            index, place = call.step.index, _PARTS.index(call.part)
            if table[index][call.layer][place]:
                return held[call.layer, call.part]
            out = call.run(call.x)
            if index + 1 < len(table) and table[index + 1][call.layer][place]:
                held[call.layer, call.part] = out
            return out

        with _advised(backbone, part), backbone.on_begin(held.clear):
            yield

    def effective_ratio(self, state: State | None) -> float | None:
        return self.ratio if state is None else float(reused(state.tensors["gates"], self.ratio or 0.0).float().mean())

    def fitting(self, backbone: Backbone, steps: int, options: MethodSettings | None = None) -> Fitting:
        chosen = L2CFit.model_validate(options.model_dump() if options else {})
        gates = _Gates(steps, backbone.layers, chosen.start)
        held: dict[tuple[int, Part], Tensor] = {}
        met: list[Tensor] = []

        def part(call: Call) -> Tensor:
            out = call.run(call.x)
            if call.step.index % 2 == 0:
                held[call.layer, call.part] = out.detach()
                return out
            gate = gates.logits[call.step.index, call.layer, _PARTS.index(call.part)].sigmoid()
            met.append(gate)
            return torch.lerp(held[call.layer, call.part], out, gate.to(out.dtype))

        @contextmanager
        def attach() -> Iterator[None]:
            met.clear()
            with _advised(backbone, part):
                yield

        def losses() -> dict[str, Tensor]:
            return {"gates": chosen.weight * (torch.stack(met).sum() if met else 0 * gates.logits.sum())}

        return Fitting(
            module=gates,
            attach=attach,
            lora=False,
            regions=steps,
            previous=lambda index: index % 2 == 1,
            teaches=lambda index: index % 2 == 1,
            diffusion=False,
            groups={"logits": chosen.gate_lr},
            losses=losses,
            log=lambda: {"open": float(gates.logits.detach()[1::2].sigmoid().mean())},
            state=lambda: State({"gates": gates.logits.detach().sigmoid()}, {"steps": steps, **chosen.model_dump()}),
        )


class _Gates(nn.Module):
    """logits: (steps, layers, parts)."""

    def __init__(self, steps: int, layers: int, start: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.full((steps, layers, len(_PARTS)), start).logit())


def reused(gates: Tensor, ratio: float) -> Tensor:
    """Which entries of (steps, layers, parts) reuse the step before: the lowest gates of the odd steps."""
    count = round(ratio * gates.numel())
    order = gates.clone()
    order[::2] = torch.inf
    chosen = order.flatten().argsort(stable=True)[: min(count, gates[1::2].numel())]
    return torch.zeros(gates.numel(), dtype=torch.bool, device=gates.device).index_fill(0, chosen, True).view_as(gates)


@contextmanager
def _advised(backbone: Backbone, part: object) -> Iterator[None]:
    with (
        backbone.advise("self_attention", part),  # type: ignore[arg-type]
        backbone.advise("cross_attention", part),  # type: ignore[arg-type]
        backbone.advise("mlp", part),  # type: ignore[arg-type]
    ):
        yield
