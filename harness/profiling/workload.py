"""The denoiser that a profile measures, and its methods with the states that they run with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness import config, plan
from harness.attach import check
from harness.backbones.base import Backbone
from harness.config import DENSE, MethodSpec
from harness.errors import UserError
from harness.method import Method
from harness.models import random_init
from harness.models.loading import RANDOM, checked, family_of, load
from harness.models.model import Model
from harness.profiling import ratio_table
from harness.profiling.request import META, Profile
from harness.spec import State


@dataclass(frozen=True)
class Subject:
    """A denoiser on its device. size: side of its latents by default; None: the family's own. text_source: where the
    number of text tokens comes from. model: what has fitted adapters, unless weights are random."""

    backbone: Backbone
    device: torch.device
    size: int | None
    text_tokens: int
    text_source: str
    digest: str
    model: Model | None = None


@dataclass(frozen=True)
class Candidate:
    """A method and its state. told: where the state comes from. steps: how many sampling steps have a cost of their
    own."""

    method: Method
    state: State | None
    told: str
    steps: int = 1


def subject(profile: Profile) -> Subject:
    """Raises UserError for a model, device or precision that is no good."""
    if profile.model.startswith(RANDOM):
        name = profile.model.removeprefix(RANDOM)
        known = random_init.architecture(name)
        family = family_of(random_init.class_name(name))
        kind = checked(profile.device, profile.dtype)
        made = random_init.build(name, device=profile.device, dtype=kind)
        return Subject(
            family(made), torch.device(profile.device), known.size,
            *_text(profile, known.text_tokens, known.text_source), digest="random weights",
        )  # fmt: skip
    if profile.device == META:
        known_names = ", ".join(RANDOM + name for name in random_init.names())
        raise UserError(f"device meta is for models with random weights, {known_names}; got model {profile.model!r}")
    model = load(
        profile.model, device=profile.device, dtype=profile.dtype, adapters=profile.adapters, variant=profile.variant,
        revision=profile.revision,
    )  # fmt: skip
    most = int(model.call.get("max_sequence_length", 120))
    size = getattr(model.pipeline.transformer.config, "sample_size", None)
    return Subject(
        model.backbone, model.device, size, *_text(profile, most, "the model's maximum"), digest=model.digest,
        model=model,
    )  # fmt: skip


def _text(profile: Profile, default: int, source: str) -> tuple[int, str]:
    return (default, f"default: {source}") if profile.text_tokens is None else (profile.text_tokens, "as asked for")


def candidates(profile: Profile, on: Subject) -> list[Candidate]:
    """Dense, then every method at every ratio. Raises UserError for what cannot run on this model, or has no cost of
    one step."""
    specs = [MethodSpec(name=DENSE), *(spec for spec in profile.methods if spec.name != DENSE)]
    classes = [config.method_class(spec.name) for spec in specs]
    ratios = None
    if profile.ratio_table is not None:
        if not any(cls.tabled for cls in classes):
            raise UserError("--ratio-table was given, and no method of this profile takes one; add diffcr to --methods")
        ratios = ratio_table.read(profile.ratio_table, on.backbone.layers)
    found = []
    for spec, cls in zip(specs, classes, strict=True):
        if ratios is not None and cls.tabled:
            mean = round(float(ratios.mean()), 6)
            spec = spec.model_copy(update={"settings": spec.settings | {"ratio": mean}})
        for method in config.settings_of(spec, profile.ratios):
            if refusal := _refusal(method, on.backbone):
                raise UserError(f"method {method.name!r} cannot be profiled on {profile.model}: {refusal}")
            found.append(_candidate(method, on, ratios if method.tabled else None, profile.ratio_table))
    return found


def _refusal(method: Method, backbone: Backbone) -> str:
    if reason := check(method, type(backbone)):
        return reason
    if method.reuses or method.least_steps > 1:
        return (
            "it reuses earlier sampling steps, so that one step says nothing of its cost; use `python -m harness run`"
        )
    return ""


def _candidate(method: Method, on: Subject, ratios: Any, path: Path | None) -> Candidate:
    if len(method.members()) > 1:
        made = {one.name: _candidate(one, on, None, None) for one in method.members()}
        states = {name: one.state for name, one in made.items() if one.state is not None}
        told = "; ".join(f"{name}: {one.told}" for name, one in made.items() if one.told)
        return Candidate(method, State(parts=states) if states else None, told)
    if ratios is not None:
        return Candidate(
            method, method.cost_state(on.backbone, ratios), f"random routers, ratios of {path}", ratios.shape[1]
        )
    if not method.needs_state or method.ratio == 0:
        return Candidate(method, None, "")
    if on.model is not None:
        try:
            state, _ = plan.state_of(method, on.model)
            return Candidate(method, state, f"adapter {method.adapter()}", _regions(state))
        except UserError:
            pass  # cost needs no training
    told = f"random, ratio {method.ratio:g} in all layers" if method.tabled else "random"
    return Candidate(method, method.cost_state(on.backbone), told)


def _regions(state: State | None) -> int:
    table = None if state is None else state.tensors.get("ratios")
    return 1 if table is None else int(ratio_table.shape[1])
