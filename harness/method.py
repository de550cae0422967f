"""What a method is: one way to make a backbone cheaper.

A method author sees tokens. `attach` puts advice around parts of the backbone's blocks inside a context manager;
leaving the context restores the model bit for bit.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from harness import renamed
from harness.errors import UserError
from harness.spec import Ability, Part, State

if TYPE_CHECKING:
    from harness.backbones.base import Backbone


Training = Literal["free", "calibrated", "trained"]

if not TYPE_CHECKING:
    __getattr__ = renamed.module_attributes(__name__)


class MethodSettings(BaseModel):
    """A method's settings: validated, frozen, unknown names refused. Give every field a description."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RatioSettings(MethodSettings):
    """Settings of a method with a compression ratio."""

    ratio: float = Field(0.2, ge=0.0, le=0.9, description="compression ratio: share of tokens that are spared")


class SeedSettings(MethodSettings):
    """Settings of a method with an adapter that is trained."""

    seed: int = Field(0, ge=0, description="training seed of the adapter")


class FittedSettings(RatioSettings, SeedSettings):
    """Settings of a method with a compression ratio and a trained adapter."""


class CalibrationPass(Protocol):
    """Runs the model on calibration samples, always the same ones: `each(prediction, target)` after every batch, what
    the model predicts and what it should predict.

    full_trajectory: every batch goes through all of the sampler's steps, noisiest first, with one noise; otherwise each
        has a step of its own.
    sampled: the model samples by itself instead, from noise, in so many steps of its sampler and without guidance;
        there is no target then.
    batches: at most so many.
    """

    def __call__(
        self,
        each: Callable[[Tensor, Any], None] | None = None,
        *,
        full_trajectory: bool = False,
        sampled: int = 0,
        batches: int | None = None,
    ) -> None: ...


@dataclass(frozen=True)
class Fitting:
    """What a method hands to the shared training loop.

    module: the method's own parameters (routers, ratios).
    state: the adapter as it stands, at the ratio that was last aimed at.
    attach: the training-time advice.
    calibrate: called before the training with a `CalibrationPass`, for a method that calibrates or warm-starts; no
        gradients unless it turns them on.
    lora: whether LoRA is trained beside it.
    previous: at which sampling steps the model runs at the preceding one first, without gradients, for a method that
        reuses what it finds there.
    teaches: at which sampling steps there is something to learn; a fit draws no others. Some must.
    diffusion: whether the diffusion loss counts beside the distance to the dense model's prediction.
    groups: name prefix in `module` -> multiple of the base learning rate.
    losses: extra terms after a forward, already weighted.
    regions: number of timestep regions (a batch draws its timesteps from one).
    target: called before every step with the ratio to aim at, the step's index in the stage and the stage's length.
    renew: called after that with the step's source of random numbers, for a method that draws some.
    after_step: called after the step.
    log: numbers for the fit's log; those whose name holds no slash (as in "ratio/3/0", by layer and region) show in its
        progress bar, too.
    learned: the mean ratio so far, where ratios are learned; it tells when a by-product is due.
    trains: False where the calibration is all.
    """

    module: nn.Module
    state: Callable[[], State]
    attach: Callable[[], AbstractContextManager[object]] = nullcontext
    calibrate: Callable[[CalibrationPass], None] | None = None
    lora: bool = True
    previous: Callable[[int], bool] = lambda _index: False
    teaches: Callable[[int], bool] = lambda _index: True
    diffusion: bool = True
    groups: dict[str, float] = field(default_factory=dict)
    losses: Callable[[], dict[str, Tensor]] = dict
    regions: int = 1
    target: Callable[[float, int, int], None] = lambda _ratio, _step, _steps: None
    renew: Callable[[torch.Generator], None] = lambda _generator: None
    after_step: Callable[[], None] = lambda: None
    log: Callable[[], dict[str, float]] = dict
    learned: Callable[[], float] | None = None
    trains: bool = True


@dataclass(frozen=True)
class Control:
    """What a method's settings become where one of its axes is destroyed at equal cost, see `Method.controls`.

    axis: what is destroyed ("tokens", "layers", "timesteps"). name: the control's own. settings: those that differ from
    the method's; None: its weights cannot run so. refit: the settings under which a fit knows the control from its
    start; None: there is no such fit. other: the method that is the control where it is fitted as such, at the same
    ratio and training seed, if it is not this one. idle: why the control would be the method itself, "" where it is
    not.
    """

    axis: str
    name: str
    settings: Mapping[str, Any] | None
    refit: Mapping[str, Any] | None = None
    other: str = ""
    idle: str = ""


class Method(renamed.Renamed, ABC, old_names=renamed.METHOD):
    """One way to make a backbone cheaper.

    name: how the registry knows it.
    Settings: its pydantic model.
    FitSettings: options of its fit.
    parts: which parts it puts advice around in every layer. A backbone that lacks one in any layer refuses the method
        when the sweep is planned.
    requires: the capabilities that a backbone must have. This and `parts` may depend on the settings, and are then set
        on the object.
    needs_state: whether it runs only with an adapter state.
    compresses: False for what saves no FLOPs.
    source: where it comes from.
    training: what its adapter takes ("free": no adapter).
    selects: it sends subsets of the tokens through parts of a block, always the same ones ("fixed") or other ones at
        each step ("changing").
    reuses: what it keeps from one sampling step for another.
    copes: with what of a sampler it does so all the same: "branches", several calls of the denoiser in one step, each
        of which it keeps things of its own for, and a "late start" in the middle of the steps, where `backbone.start`
        is above 0. What it cannot cope with is refused.
    attach_order: compositions attach methods in this order, equal ones as written; above 0 it is outside of any part.
    refuses: methods that it cannot work with, and why, beyond what follows from selects, reuses and training.
    slow_to_attach: attaching it is slow, so that it stays attached (to a copy of the model) while latency is measured.
    least_steps: how few sampling steps it works with.
    adaptive: how much it computes depends on the image, so that images are made one at a time and each is costed.
    per_layer_ratios: it has a ratio for each layer and timestep region.
    cpu_tensors: names of the state's tensors whose values Python reads, so that they stay in main memory.
    strength: the setting that makes it cheaper as it grows.
    sweep: its default values, for a strength that is no ratio.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[MethodSettings]] = RatioSettings
    FitSettings: ClassVar[type[MethodSettings]] = MethodSettings
    parts: ClassVar[frozenset[Part]] = frozenset({"block"})
    needs_state: ClassVar[bool] = False
    compresses: ClassVar[bool] = True
    requires: ClassVar[frozenset[Ability]] = frozenset()
    source: ClassVar[str] = ""
    training: ClassVar[Training] = "free"
    selects: ClassVar[Literal["", "fixed", "changing"]] = ""
    reuses: ClassVar[Literal["", "parts", "blocks"]] = ""
    copes: ClassVar[frozenset[Literal["branches", "late start"]]] = frozenset()
    attach_order: ClassVar[int] = 0
    refuses: ClassVar[Mapping[str, str]] = {}
    slow_to_attach: ClassVar[bool] = False
    least_steps: ClassVar[int] = 1
    adaptive: ClassVar[bool] = False
    per_layer_ratios: ClassVar[bool] = False
    cpu_tensors: ClassVar[frozenset[str]] = frozenset()
    strength: ClassVar[str] = "ratio"
    _unsaid: ClassVar[type[Method] | None] = None
    sweep: ClassVar[tuple[Any, ...]] = ()

    def __init__(self, settings: MethodSettings | None = None) -> None:
        self.settings = settings if settings is not None else self.Settings()

    @classmethod
    def settings_for(cls, ratios: Sequence[float]) -> list[MethodSettings]:
        """The default sweep: one setting per ratio. Without a ratio: its defaults where one ratio is asked for, else
        one per value of `sweep`, spread over them where fewer ratios are asked for."""
        if "ratio" in cls.Settings.model_fields:
            return [cls.Settings.model_validate({"ratio": ratio}) for ratio in ratios]
        count = min(len(ratios), len(cls.sweep)) if len(ratios) > 1 else 0
        chosen = [cls.sweep[(2 * i + 1) * len(cls.sweep) // (2 * count)] for i in range(count)]
        return [cls.Settings.model_validate({cls.strength: value}) for value in chosen] or [cls.Settings()]

    @property
    def ratio(self) -> float | None:
        return getattr(self.settings, "ratio", None)

    def adapter(self) -> str:
        """The name of the adapter state that these settings need."""
        return f"{self.name}-{self.percent}{self.seed_suffix}"

    def members(self) -> Sequence[Method]:
        """The methods that it is made of: itself, unless it is a composition."""
        return (self,)

    @classmethod
    def files(cls) -> set[str]:
        """The source files of its class and of those that it inherits from, the harness' own apart."""
        modules = (sys.modules[one.__module__] for one in cls.__mro__ if one.__module__.partition(".")[0] != "harness")
        return {str(module.__file__) for module in modules if getattr(module, "__file__", None)}

    @property
    def percent(self) -> str:
        """The compression ratio in file names: 0.05 is "05", 0.125 is "12.5"."""
        return f"{100 * (self.ratio or 0):g}".zfill(2)

    @property
    def seed_suffix(self) -> str:
        """What tells the adapters of further training seeds from that of seed 0."""
        seed = getattr(self.settings, "seed", 0)
        return f"-s{seed}" if seed else ""

    @abstractmethod
    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        """Make the backbone cheaper inside this context."""

    @classmethod
    def registered(cls) -> None:
        """What a class leaves unsaid. Raises UserError for what it says of itself and is not so."""
        said = next(kind for kind in cls.__mro__ if "strength" in vars(kind) and vars(kind).get("_unsaid") is not kind)
        found = vars(said)["strength"]
        if found and found not in cls.Settings.model_fields:
            if said is not Method:
                raise UserError(f"method {cls.name!r}: its strength {found!r} is none of its settings; name one, or ''")
            cls.strength, cls._unsaid = "", cls  # it has no ratio
        elif cls.strength != found:
            cls.strength, cls._unsaid = found, cls

    def dummy_state(self, backbone: Backbone, table: Tensor | None = None) -> State | None:
        """A made-up adapter state at which the method costs what it would with a fitted one; None: it needs none.
        table: (layers, regions), compression ratios for a method with `per_layer_ratios`. Raises UserError where cost
        depends on what a fit finds."""
        if not self.needs_state:
            return None
        raise UserError(f"what method {self.name!r} costs depends on its adapter, and no cost is made up for it: "
                        "define its `dummy_state`, or fit one and use `python -m harness run`")  # fmt: skip

    def router_weights(self, state: State | None) -> Tensor | None:
        """(layers, D), where an adapter state holds linear routers."""
        return None if state is None else state.tensors.get("router")

    def ratio_table(self, state: State | None) -> Tensor | None:
        """(layers, regions), where an adapter state holds a compression ratio for each."""
        return None if state is None else state.tensors.get("ratios")

    def effective_ratio(self, state: State | None) -> float | None:
        """The mean compression ratio that really runs, where it may differ from the one asked for."""
        return self.ratio

    def controls(self, state: State | None) -> Sequence[Control]:
        """Controls of equal cost that destroy one axis of this method each, for `python -m harness attribute`. state:
        the adapter state that it runs with."""
        return ()

    @property
    def rests_on(self) -> Method | None:
        """The method whose adapter a fit of this one takes as given; None: it takes none."""
        return None

    def fit_defaults(self, given: State | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """What these settings stand for in a fit wherever nobody says otherwise: options of type FitSettings, and of
        the shared loop. given: the state of the method that this one `rests_on`."""
        return {}, {}

    def fitting(self, backbone: Backbone, steps: int, options: MethodSettings | None = None) -> Fitting:
        """How to fit this method. steps: sampler steps. options: of type FitSettings, or None for
        `fit_defaults`. Raises UserError where there is nothing to fit."""
        if self.needs_state:
            raise UserError(f"method {self.name!r} needs a state and defines no `fitting` that makes one: see "
                            "docs/add_a_method.md")  # fmt: skip
        raise UserError(f"method {self.name!r} needs no fit: run it as it is")
