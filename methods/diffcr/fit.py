"""Learning DiffCR's ratios and routers (Sec. 3.2 to 3.4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.backbones.base import Backbone
from harness.errors import UserError
from harness.method import Fitting
from harness.spec import Call, State
from harness.tokens import kept_count, mix
from methods.common.routing import Routed, Routers, calibration
from methods.common.routing_settings import RoutingFit
from methods.diffcr.ratios import Ratios, Rounding, region_of, step_shares


class DiffCRFit(RoutingFit):
    """Every default is the paper's unless its description says otherwise."""

    PAPER: ClassVar[Mapping[str, Any]] = {
        **RoutingFit.PAPER, "together": 0.0, "every": 1, "settle": 0.0, "rounding": "nearest",
    }  # fmt: skip

    regions: int = Field(4, ge=1, le=50, description="timestep regions of -LT (Sec. 3.3: 4 for text-to-image)")
    bin_width: float = Field(0.1, gt=0, le=0.45, description="distance of the ratio bins (Sec. 3.2)")
    coefficient: float = Field(0.3, gt=0, description="weight of (mean ratio - target)^2 at the start (Sec. 3.2)")
    adjust: float = Field(
        1.15,
        ge=1,
        description="the coefficient grows by this factor at each step that ends more than a fortieth of a bin below "
        "the target and no closer to it than the step before, and falls back where the mean is there (the paper "
        "adjusts it by hand for text-to-image); 1 keeps it fixed",
    )
    ratio_lr: float = Field(15.0, gt=0, description="multiple of the base learning rate for the ratios (ours)")
    together: float = Field(
        1.0,
        ge=0,
        description="how much of a ratio's gradient the other timestep regions of its layer follow: a step sees one "
        "region, and regions that learn alone are noisy (ours; the paper does not say: 0)",
    )
    every: int = Field(
        4,
        ge=1,
        description="a layer runs both its bins, which the ratio's gradient needs, in one of this many steps, and in "
        "the others one of them, drawn by proximity; the gradient is scaled to match (ours; 1 is the paper's form, "
        "which doubles the cost of a step)",
    )
    settle: float = Field(
        0.4,
        ge=0,
        lt=1,
        description="last share of a fit in which the ratios stand still and the bins of inference run alone, so that "
        "routers and LoRA meet what they will serve (ours; the paper mixes to the end: 0)",
    )
    rounding: Rounding = Field(
        "balanced",
        description="how ratios become bins. nearest: the paper's. balanced: the neighbouring bins whose mean comes "
        "closest to the target, so that 20 % is 20 % at inference",
    )
    table: tuple[tuple[float, ...], ...] = Field(
        (), description="ratios by layer and timestep region that stand fixed, raised together to the target; empty: "
        "the fit learns them"
    )  # fmt: skip


class _Learned(nn.Module):
    def __init__(self, backbone: Backbone, regions: int, options: DiffCRFit, flat: bool) -> None:
        super().__init__()
        self.routers = Routers(backbone.layers, backbone.width)
        self.ratios = Ratios(backbone.layers, regions, options.bin_width, options.together, flat=flat)


@dataclass
class _Now:
    """Where the fit stands."""

    bins: Tensor
    target: float = 0.0
    step: int = 0
    settled: bool = False
    before: Tensor | None = None
    pace: float = 1.0


def spread(step: int, layer: int) -> float:
    """A number in 0..1 per step and layer, spread evenly over the steps (an additive recurrence with the golden ratio),
    so that draws made with it vary less than random ones and a resumed fit repeats them."""
    return (step * 0.6180339887498949 + layer * 0.7548776662466927) % 1.0


def magnified(share: Tensor, factor: int) -> Tensor:
    """The same value with a gradient that is `factor` times as large."""
    return share.detach() + factor * (share - share.detach())


def fitting(backbone: Backbone, steps: int, by_timestep: bool, options: DiffCRFit, control: str = "") -> Fitting:
    """Two-bin mixing around every block, and the loss that pulls the mean ratio to the target. control: see
    `DiffCRSettings`. Raises UserError for a fixed table that does not fit the model."""
    if options.table:
        return _under(options.table, backbone, steps, options, control)
    learned = _Learned(backbone, options.regions if by_timestep else 1, options, flat=control == "flat-layers")
    ratios, routed = learned.ratios, Routed.training(options, control)
    shares = step_shares(steps, ratios.regions)
    learned.register_buffer("coefficient", torch.tensor(options.coefficient))
    learned.register_buffer("gap", torch.tensor(0.0))  # of the step before: a resumed fit needs it

    now = _Now(ratios.frozen())

    def frozen() -> Tensor:
        return ratios.frozen(shares if options.rounding == "balanced" else None, now.target)

    def block(call: Call) -> Tensor:
        region = region_of(call.step.index, call.step.count, ratios.regions)
        tokens, weight = call.x.shape[1], learned.routers.weight[call.layer]
        if now.settled:
            return routed.block(call, weight, kept_count(float(now.bins[call.layer, region]), tokens))
        low, high, share = ratios.bracket(call.layer, region)
        if (now.step + call.layer) % options.every:
            chosen = high if spread(now.step, call.layer) < float(share.detach()) else low
            return routed.block(call, weight, kept_count(chosen, tokens))
        fewer = routed.block(call, weight, kept_count(high, tokens))
        more = routed.block(call, weight, kept_count(low, tokens))
        return mix(more, fewer, magnified(share, options.every))

    @contextmanager
    def attach() -> Iterator[None]:
        with routed.on(backbone, block):
            yield

    def mean() -> Tensor:
        return ratios.mean(shares.to(ratios.values.device))

    def aim(ratio: float, step: int, steps: int) -> None:
        now.target, now.step, now.settled = ratio, step, step >= (1 - options.settle) * steps
        routed.step = step
        if now.settled:
            now.bins = frozen()
        # The ratios come to rest before they are frozen: over the last third of the way there their steps shrink to 0.
        left = 1 - step / ((1 - options.settle) * steps)
        now.before, now.pace = ratios.values.detach().clone(), min(1.0, 3 * left) if options.settle else 1.0

    def losses() -> dict[str, Tensor]:
        if now.settled:
            return {"ratio_loss": learned.coefficient.new_zeros(())}
        return {"ratio_loss": learned.coefficient * (mean() - now.target) ** 2}

    @torch.no_grad()
    def after_step() -> None:
        if now.settled:
            return
        if now.before is not None:
            ratios.values.copy_(torch.lerp(now.before, ratios.values, now.pace))
        ratios.clamp()
        before, gap = float(learned.gap), now.target - float(mean())
        learned.gap.fill_(gap)
        factor = 1 / options.adjust
        if gap > options.bin_width / 40:
            factor = options.adjust if gap >= before else 1.0  # it is on its way: more would only overshoot
        learned.coefficient.mul_(factor).clamp_(options.coefficient, 1e4 * options.coefficient)

    def state() -> State:
        tensors = {"router": learned.routers.weight.detach().clone(), "ratios": frozen()}
        facts = options.model_dump() | {"learned": ratios.values.detach().cpu().tolist(), "steps": steps}
        return State(tensors, facts)

    def log() -> dict[str, float]:
        table = ratios.values.detach().cpu()
        each = {f"ratio/{layer}/{region}": float(x) for layer, row in enumerate(table) for region, x in enumerate(row)}
        return {"ratio": float(mean().detach()), "coefficient": float(learned.coefficient), **each}

    return Fitting(
        module=learned,
        attach=attach,
        state=state,
        groups={"ratios": options.ratio_lr, "routers": options.router_lr},
        losses=losses,
        regions=ratios.regions,
        target=aim,
        renew=routed.renew,
        calibrate=calibration(learned.routers, backbone, options),
        after_step=after_step,
        log=log,
        learned=lambda: float(mean().detach()),
    )


def _under(
    table: tuple[tuple[float, ...], ...], backbone: Backbone, steps: int, options: DiffCRFit, control: str
) -> Fitting:
    """Routers and LoRA under a fixed table of ratios."""
    if len(table) != backbone.layers or len({len(row) for row in table}) != 1:
        raise UserError(f"a table of {len(table)} layers does not fit a model of {backbone.layers}, or its rows differ "
                        f"in length: give one row per layer, one ratio per region")  # fmt: skip
    values = torch.tensor(table)
    routers, routed = Routers(backbone.layers, backbone.width), Routed.training(options, control)
    mean = float((values.mean(0) * step_shares(steps, values.shape[1])).sum())
    share = [0.0]

    def block(call: Call) -> Tensor:
        ratio = table[call.layer][region_of(call.step.index, call.step.count, values.shape[1])]
        return routed.block(call, routers.weight[call.layer], kept_count(share[0] * ratio, call.x.shape[1]))

    @contextmanager
    def attach() -> Iterator[None]:
        with routed.on(backbone, block):
            yield

    def aim(ratio: float, step: int, steps: int) -> None:
        settled = step >= (1 - options.settle) * steps  # as where the ratios are learned
        share[0], routed.step = 1.0 if settled else min(1.0, ratio / max(mean, 1e-9)), step

    facts = options.model_dump() | {"steps": steps}
    return Fitting(
        module=routers,
        attach=attach,
        state=lambda: State({"router": routers.weight.detach().clone(), "ratios": values}, facts),
        groups={"weight": options.router_lr},
        regions=values.shape[1],
        target=aim,
        renew=routed.renew,
        calibrate=calibration(routers, backbone, options),
        log=lambda: {"ratio": share[0] * mean},
    )
