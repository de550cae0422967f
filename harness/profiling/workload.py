"""What a profile measures: a denoiser, its methods with the states that they run with, and the points of both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from harness import config, measure, modes, versions
from harness.attach import check
from harness.backbones.base import Backbone
from harness.compose import method_class
from harness.errors import UserError
from harness.kernels import routing
from harness.measure import environment
from harness.method import Method
from harness.models import adapters, prompting, random_init
from harness.models.loading import RANDOM, checked, claim, family_of, load
from harness.profiling import ratio_table
from harness.profiling.step import OpenStep
from harness.profiling.subject import Candidate, Setup, Subject, inputs, settings_of
from harness.spec import State
from harness.sweep import DENSE, META, MethodSpec, Profile
from harness.workload import Point, Workload


def plans(profile: Profile) -> list[tuple[OpenStep, tuple[Point, ...]]]:
    """One workload for every batch and size, with its points, dense first. Raises UserError."""
    on = subject(profile)
    chosen = candidates(profile, on)
    facts = environment.describe(on.device)
    for mode in profile.mode:
        modes.check(mode, on.device.type)
    setups = [
        Setup(batch, size, on.text_tokens, profile.mask_tokens, mode)
        for size in (profile.size or (on.size,))
        for batch in profile.batch
        for mode in profile.mode
    ]
    for size in {setup.size for setup in setups}:  # what the family refuses is told before anything is measured
        inputs(on.backbone, Setup(1, size, on.text_tokens, profile.mask_tokens))
    out = []
    for setup in setups:
        workload = _workload(profile, on, setup, facts)
        points: list[Point] = []
        for candidate in chosen:
            point = _point(candidate, workload, points[0].key if points else "")
            points.append(point)
        own = OpenStep(workload, on, setup, profile.rounds, _by_key(points, chosen))
        out.append((own, tuple({point.key: point for point in points}.values())))
    return out


def open_step(profile: Profile, workload: Workload) -> OpenStep:
    """One of the workloads of `plans`, in a process that was handed it. Raises UserError."""
    on = subject(profile)
    settings = workload.task_settings
    setup = Setup(settings["batch"], settings["size"], settings["text_tokens"], settings.get("mask_tokens"),
                  settings.get("mode", "eager"))  # fmt: skip
    return OpenStep(workload, on, setup, profile.rounds, lambda point: _of_point(point, profile, on))


def _workload(profile: Profile, on: Subject, setup: Setup, facts: dict[str, str]) -> Workload:
    return Workload(
        request=profile.shared() | {"methods": [], "adapters": [str(path) for path in profile.adapters]},
        task_settings=settings_of(setup),
        weights=on.digest,
        steps=1,
        depends_on={
            "model": profile.model, "dtype": profile.dtype, "rounds": str(profile.rounds), "device": on.device.type,
            "hardware": facts["device"], "threads": facts["threads"],
            **routing.fingerprint(on.device),
        },
        compares={
            "text_tokens": on.text_source, "measurement": str(measure.VERSION), "rounds": str(profile.rounds),
            "backbone": versions.of_part(type(on.backbone)), "model": profile.model,
            "setup": json.dumps(settings_of(setup)),
        },
        environment=facts,
    )  # fmt: skip


def _point(candidate: Candidate, workload: Workload, reference: str) -> Point:
    method = candidate.method
    return Point(
        workload=workload, method=method.name, settings=method.settings.model_dump(mode="json"), ratio=method.ratio,
        strength=method.strength, adapter=candidate.digest,
        source="".join(versions.of_source(type(one)) for one in method.members()), reference=reference,
        label=f"{method.name} {100 * method.ratio:g} %" if method.ratio is not None else method.name,
        facts={"state": candidate.state_source},
    )  # fmt: skip


def _by_key(points: Sequence[Point], chosen: Sequence[Candidate]) -> Callable[[Point], Candidate]:
    known = {point.key: candidate for point, candidate in zip(points, chosen, strict=True)}
    return lambda point: known[point.key]


def _of_point(point: Point, profile: Profile, on: Subject) -> Candidate:
    cls = method_class(point.method)
    ratios = None
    if cls.per_layer_ratios and profile.ratio_table is not None:
        ratios = ratio_table.read(profile.ratio_table, on.backbone.layers)
    return _candidate(cls(cls.Settings.model_validate(point.settings)), on, ratios, profile.ratio_table)


def subject(profile: Profile) -> Subject:
    """Raises UserError for a model, device or precision that is no good."""
    if profile.model.startswith(RANDOM):
        name = profile.model.removeprefix(RANDOM)
        known = random_init.architecture(name)
        family = family_of(random_init.class_name(name))
        kind = checked(profile.device, profile.dtype)
        claim(profile.device)

        def build() -> Backbone:
            return family(random_init.build(name, device=profile.device, dtype=kind))

        return Subject(
            build(), torch.device(profile.device), known.size,
            *_text(profile, known.text_tokens, known.text_source), digest="random weights", build=build,
        )  # fmt: skip
    if profile.device == META:
        known_names = ", ".join(RANDOM + name for name in random_init.names())
        raise UserError(f"device meta is for models with random weights, {known_names}; got model {profile.model!r}")
    model = load(
        profile.model, device=profile.device, dtype=profile.dtype, adapters=profile.adapters, variant=profile.variant,
        revision=profile.revision,
    )  # fmt: skip

    def anew() -> Backbone:
        model.forget()
        return model.backbone

    size = getattr(model.pipeline.transformer.config, "sample_size", None)
    most = prompting.text_tokens(model.pipeline, model.call)
    return Subject(
        model.backbone, model.device, size, *_text(profile, most, "the model's maximum"), digest=model.digest,
        build=anew, model=model,
    )  # fmt: skip


def _text(profile: Profile, default: int, source: str) -> tuple[int, str]:
    return (default, f"default: {source}") if profile.text_tokens is None else (profile.text_tokens, "as asked for")


def candidates(profile: Profile, on: Subject) -> list[Candidate]:
    """Dense, then every method at every ratio. Raises UserError for what cannot run on this model, or has no cost of
    one step."""
    specs = [MethodSpec(name=DENSE), *(spec for spec in profile.methods if spec.name != DENSE)]
    classes = [method_class(spec.name) for spec in specs]
    ratios = None
    if profile.ratio_table is not None:
        if not any(cls.per_layer_ratios for cls in classes):
            raise UserError("--ratio-table was given, and no method of this profile takes one; add diffcr to --methods")
        ratios = ratio_table.read(profile.ratio_table, on.backbone.layers)
    found = []
    for spec, cls in zip(specs, classes, strict=True):
        if ratios is not None and cls.per_layer_ratios:
            mean = round(float(ratios.mean()), 6)
            spec = spec.model_copy(update={"settings": spec.settings | {"ratio": mean}})
        for method in config.settings_of(spec, profile.ratios):
            if refusal := _refusal(method, on.backbone):
                raise UserError(f"method {method.name!r} cannot be profiled on {profile.model}: {refusal}")
            found.append(_candidate(method, on, ratios if method.per_layer_ratios else None, profile.ratio_table))
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
        candidates = {one.name: _candidate(one, on, None, None) for one in method.members()}
        states = {name: one.state for name, one in candidates.items() if one.state is not None}
        state_source = "; ".join(f"{name}: {one.state_source}" for name, one in candidates.items() if one.state_source)
        return Candidate(method, State(parts=states) if states else None, state_source)
    if ratios is not None:
        return Candidate(
            method,
            method.dummy_state(on.backbone, ratios),
            f"random routers, ratios of {path}",
            ratios.shape[1],
            hashlib.sha256(ratios.numpy().tobytes()).hexdigest(),
        )
    if not method.needs_state or method.ratio == 0:
        return Candidate(method, None, "")
    if on.model is not None:
        try:
            digest = adapters.digest_of(method, on.model)
            state = adapters.state_of(method, on.model)
            return Candidate(method, state, f"adapter {method.adapter()}", _regions(method, state), digest)
        except UserError:
            pass  # cost needs no training
    state_source = f"random, ratio {method.ratio:g} in all layers" if method.per_layer_ratios else "random"
    return Candidate(method, method.dummy_state(on.backbone), state_source)


def _regions(method: Method, state: State | None) -> int:
    table = method.ratio_table(state)
    return 1 if table is None else int(table.shape[1])
