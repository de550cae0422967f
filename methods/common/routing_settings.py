"""Settings of every method with fitted routers, and options of its fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from harness.method import Control, FittedSettings, MethodSettings

Rescale = Literal["mlp", "update", "none"]
WarmStart = Literal["sensitivity", "update", "random"]
TokenControl = Literal["", "random-tokens", "average-tokens"]


class RoutingSettings(FittedSettings):
    """Settings of every method with fitted routers."""

    control: TokenControl = Field(
        "",
        description="destroys one axis at equal cost, see `python -m harness attribute`. random-tokens: as many, drawn "
        "at random anew per image, step and layer; average-tokens: by each layer's logits averaged over the batch",
    )
    refitted: bool = Field(False, description="with weights that were fitted under this control")

    temperature: float | None = Field(
        None,
        ge=0,
        description="Gumbel noise on the routers' logits, drawn at every step: the tokens with the highest logit + "
        "temperature * noise go through. 0: none; far above the logits (1e6): random tokens; empty: what the fit had",
    )

    multiple: int = Field(
        1,
        ge=1,
        description="layers that leave tokens out keep a multiple of this (64 suits GPUs), the mean staying as it is; "
        "1: exactly as many as the ratio says",
    )

    preset: Literal["", "paper"] = Field(
        "", description="paper: fitted in the form of the authors' pseudocode, wherever the fit is not told otherwise"
    )

    @property
    def suffix(self) -> str:
        """What tells adapters that were fitted in another form, or under a control, from the method's own."""
        return f"-{self.preset}" * bool(self.preset) + f"-{self.control}" * self.refitted

    @model_validator(mode="after")
    def _controlled(self) -> RoutingSettings:
        if self.refitted and not self.control:
            raise ValueError("refitted says that weights were fitted under a control: name the control")
        if self.refitted and self.control not in ("random-tokens", "flat-layers"):
            raise ValueError(f"there is no fit under the control {self.control!r}: leave refitted out")
        return self


def defaults(settings: RoutingSettings, paper: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """See `Method.fit_defaults`. paper: the options of the fit that `preset=paper` stands for."""
    return (dict(paper), {"distill": 0.0}) if settings.preset == "paper" else ({}, {})


def token_controls(control: str) -> Sequence[Control]:
    """The controls of the token axis with the same weights. control: that of the method's own settings."""
    if control:
        return ()
    return (
        Control("tokens", "random-tokens", {"control": "random-tokens"}),
        Control("tokens", "average-tokens", {"control": "average-tokens"}),
    )


class RoutingFit(MethodSettings):
    """Fit options of every method that routes. PAPER: those of the authors' pseudocode."""

    PAPER: ClassVar[Mapping[str, Any]] = {
        "rescale": "mlp", "score_scale": 1.0, "score_dense": True, "router_lr": 4.0, "warm_start": "random",
        "noise": 0.0, "straight": 0,
    }  # fmt: skip

    rescale: Rescale = Field(
        "none", description="what the router's score multiplies: nothing (ours), or the gated MLP branch (pseudocode)"
    )
    score_scale: float = Field(
        2.0,
        gt=0,
        description="factor on the score. The paper's is 1; 2 lets an untrained router leave blocks unchanged",
    )
    score_dense: bool = Field(
        False, description="the score multiplies where all tokens are kept, too (pseudocode), so that bins are alike"
    )
    router_lr: float = Field(
        0.0, ge=0, description="multiple of the base learning rate for the routers; 0: they stay as they start (ours)"
    )
    warm_start: WarmStart = Field(
        "sensitivity",
        description="start the routers as linear readings of how much the prediction changes if a token's update is "
        "left out (sensitivity), of the update's norm, or at random (ours; the paper does not say how routers start)",
    )
    warm_spread: float = Field(
        0.3, gt=0, description="standard deviation of the logits after a warm start: small, scores stay near 1/2 (ours)"
    )
    noise: float = Field(
        0.45,
        ge=0,
        description="temperature of the Gumbel noise in training, and at inference unless `temperature` is given "
        "(ours; the paper's routers decide alone: 0)",
    )
    straight: int = Field(
        0,
        ge=0,
        description="in one of this many steps a layer also runs on all tokens, without gradient, so that its router "
        "hears what every token's update is worth (straight-through; ours); 0: never",
    )
