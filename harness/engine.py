"""One operating point -> one record."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from harness.attach import attached
from harness.backbones.sampler_clock import follow
from harness.estimates import timed
from harness.measure import flops, latency, memory
from harness.metric import Sample, images_to_uint8
from harness.plan import Plan, Point
from results.analysis.statistics import bootstrap
from results.record import Estimate, Record

Progress = Callable[[str, int], None]
"""Called with what is being done and how many images were just made."""


class MethodFailure(Exception):
    """A method did not do what a method must; the message is the record's reason."""


@dataclass
class Reference:
    """What the dense point leaves for the others."""

    sample: Sample
    gmacs: float


def images_per_point(plan: Plan, point: Point) -> int:
    """How many images a point makes in all its passes: the unit of progress and of time estimates."""
    latency_runs = 2 * (plan.sweep.rounds + 1)
    return len(plan.cases) + latency_runs + 5  # parts, memory, and counting, whose two runs go slower


def run(
    plan: Plan, point: Point, reference: Reference | None, folder: Path, progress: Progress
) -> tuple[Record, Reference | None]:
    """Generate, measure and judge one point. Whatever the method raises becomes a failed record.

    Returns the record and, for the reference itself, what the others compare with.
    """
    began, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    estimates: dict[str, Estimate] = {}
    samples: dict[str, list[float]] = {}
    made: Reference | None = None
    images: list[str] = []
    outcome, reason = "ok", ""
    try:
        made_images, seconds = generate(plan, point, progress)
        sample = Sample(plan.cases, made_images)
        if not np.isfinite(sample.images.astype(float)).all():
            raise MethodFailure("the images hold values that are not finite")
        progress(f"{point.label}: cost", 0)
        estimates, samples = _cost(plan, point, progress)
        estimates |= _throughput(plan, seconds) | plan.task.facts(plan.cases)
        gmacs = estimates["gmacs"].value
        _check_effect(point, sample, gmacs, reference)
        progress(f"{point.label}: quality", 0)
        lost = []
        for metric in plan.metrics:
            try:
                estimates |= metric.estimates(sample, None if reference is None else reference.sample)
            except Exception as error:  # the point's other figures stand
                lost.append(f"metric {metric.name}: {type(error).__name__}: {_first_line(error)}")
        images = save_images(sample.images, folder, point.key)
        made = Reference(sample, gmacs)
        if lost:
            outcome, reason = "incomplete", "; ".join(lost)
    except Exception as error:
        reason = str(error) if isinstance(error, MethodFailure) else f"{type(error).__name__}: {_first_line(error)}"
        outcome, estimates, samples = "failed", {}, {}
    record = record_of(
        plan, point, outcome=outcome, reason=reason, estimates=estimates, samples=samples, images=images,
        started=started, seconds=time.monotonic() - began,
    )  # fmt: skip
    return record, made


def record_of(plan: Plan, point: Point, **rest: Any) -> Record:
    """A record of this point; `rest` is what became of it."""
    ran = rest["outcome"] != "failed" and point.method.ratio is not None
    return Record(
        key=point.key,
        method=point.method.name,
        settings=point.method.settings.model_dump(mode="json"),
        ratio=point.method.ratio,
        strength=point.method.strength,
        ratio_reached=point.method.reached(point.state) if ran else None,
        task=plan.sweep.task,
        task_settings=plan.task.settings.model_dump(mode="json"),
        model=plan.sweep.model,
        device=plan.sweep.device,
        dtype=plan.sweep.dtype,
        steps=plan.task.steps,
        cases=len(plan.cases),
        fingerprint=plan.fingerprint,
        environment=plan.environment,
        **rest,
    )


@contextmanager
def _on(plan: Plan, point: Point) -> Iterator[None]:
    """The point's method is on."""
    backbone = plan.model.backbone
    with (
        follow(backbone, plan.model.pipeline, guided=plan.task.guided),
        attached(backbone, point.method, point.state),
    ):
        yield


@contextmanager
def _ready(plan: Plan, point: Point) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """What puts the point's method on, quickly: one that takes long stays on a copy of the denoiser."""
    if not point.method.lasting:
        yield lambda: _on(plan, point)
        return
    pipeline, original = plan.model.pipeline, plan.model.backbone.transformer
    twin = plan.model.family(copy.deepcopy(original))

    @contextmanager
    def swapped() -> Iterator[None]:
        pipeline.transformer = twin.transformer
        try:
            with follow(twin, pipeline, guided=plan.task.guided):
                yield
        finally:
            pipeline.transformer = original

    with attached(twin, point.method, point.state):
        yield swapped


@contextmanager
def dense_pass(plan: Plan) -> Iterator[None]:
    """The model as it is, ready to generate."""
    plan.task.prepare(plan.cases)
    with _on(plan, plan.points[0]):
        yield


def generate(plan: Plan, point: Point, progress: Progress) -> tuple[np.ndarray, list[float]]:
    """All cases' images, (N, H, W, 3) uint8, and the seconds that each batch took."""
    made: dict[int, np.ndarray] = {}
    seconds = []
    with _on(plan, point):
        for rows in plan.task.batches(plan.cases, plan.sweep.batch):
            cases = [plan.cases[row] for row in rows]
            progress(f"{point.label}: images", 0)
            began = time.monotonic()
            images = plan.task.generate(cases)
            if images.ndim != 4 or len(images) != len(cases) or images.shape[1] != 3:
                raise MethodFailure(f"expected images of shape ({len(cases)}, 3, H, W), got {tuple(images.shape)}")
            if not torch.isfinite(images).all():
                raise MethodFailure("the images hold NaN or infinite values")
            made |= dict(zip(rows, images_to_uint8(images), strict=True))  # waits for the device
            seconds.append(time.monotonic() - began)
            progress(f"{point.label}: images", len(cases))
    return np.stack([made[row] for row in range(len(plan.cases))]), seconds


def _throughput(plan: Plan, seconds: Sequence[float]) -> dict[str, Estimate]:
    """Images per second in the generation pass, from its full batches."""
    full = np.array(seconds[: len(plan.cases) // plan.sweep.batch])
    if not len(full):
        return {}
    spread = bootstrap(plan.sweep.batch / full, np.median)
    about = f"median over full batches of {plan.sweep.batch} in the generation pass, not interleaved with dense"
    return {"throughput_images_s": Estimate(**spread._asdict(), n=len(full), unit="images/s", convention=about)}


def _check_effect(point: Point, sample: Sample, gmacs: float, reference: Reference | None) -> None:
    """No silent no-op: a compressing method has to change both the images and the FLOPs."""
    if reference is None or not point.method.compresses or point.method.ratio == 0:
        return
    if np.array_equal(sample.images, reference.sample.images):
        raise MethodFailure("changed nothing: its images are dense's, pixel for pixel (a silent no-op)")
    if abs(gmacs - reference.gmacs) <= 1e-6 * reference.gmacs:
        raise MethodFailure(
            f"changed no cost: {gmacs:.6g} GMACs per image and step, the same as dense (a silent no-op)"
        )


def counted(plan: Plan, point: Point) -> flops.FlopCount:
    """What the denoiser costs on the plan's typical case, per image and step of the sweep."""
    case = (plan.task.typical(plan.cases)[0],)
    encoder = _encoder(plan)
    with _on(plan, point):
        return flops.count(
            plan.model.backbone.transformer,
            lambda: plan.task.generate(case),
            images=1,
            steps=plan.task.steps,
            beside={} if encoder is None else {"encoder": encoder},
        )


def _encoder(plan: Plan) -> torch.nn.Module | None:
    """What some models run once per image."""
    return getattr(plan.model.pipeline, "encoder", None)


def times(plan: Plan, point: Point, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of whole images of the typical case, dense's and the point's, interleaved."""
    case = (plan.task.typical(plan.cases)[0],)

    def generate() -> None:
        plan.task.generate(case)

    with _ready(plan, point) as on_point:
        dense, own = latency.interleave(
            [generate, generate],
            device=plan.model.device,
            warmup=1,
            repeats=rounds,
            inside=[lambda: _on(plan, plan.points[0]), on_point],
        )
    return dense, own


def _cost(plan: Plan, point: Point, progress: Progress) -> tuple[dict[str, Estimate], dict[str, list[float]]]:
    """FLOPs, latency and memory of one image, each in a pass of its own."""
    typical, chosen = plan.task.typical(plan.cases)
    one, device = (typical,), plan.model.device

    def generate() -> None:
        plan.task.generate(one)

    counts = counted(plan, point)
    progress(f"{point.label}: memory", 3)
    with _on(plan, point):
        peak = memory.peak(generate, device)
        encoder = _encoder(plan)
        vae = plan.model.pipeline.vae
        named: dict[str, latency.Part] = {"denoiser": plan.model.backbone.transformer, "vae": (vae, "decode")}
        with latency.PartTimer(named | ({"encoder": encoder} if encoder is not None else {}), device) as parts:
            generate()
        text = latency.interleave([lambda: plan.task.encode(one)], device=device, warmup=1, repeats=3)[0]
        progress(f"{point.label}: latency", 2)
    dense_s, own_s = times(plan, point, plan.sweep.rounds)
    progress(f"{point.label}: latency", 2 * (plan.sweep.rounds + 1))
    kind = latency.clock(device)
    total = memory.weights_bytes(plan.model.modules) + peak.bytes
    on = f"; {chosen}" if chosen else ""
    per = f"per image and sampling step, both CFG halves, mean over the steps{on}"
    notes = f"; not counted: {', '.join(counts.unknown)}" if counts.unknown else ""
    estimates = {
        "gmacs": Estimate(
            value=counts.gmacs, n=counts.calls, unit="GMACs", role="cost", better="lower",
            convention=f"every matrix product, fused attention included, {per}{notes}",
        ),
        **timed(own_s, dense_s, f"whole image at batch 1, prompt states given, {kind}{on}"),
        "peak_memory_mb": Estimate(
            value=total / 2**20, n=1, unit="MiB", role="cost", better="lower",
            convention=f"weights, and {peak.convention}; one image{on}",
        ),
    }  # fmt: skip
    if counts.gmacs_paper is not None:
        estimates["gmacs_paper"] = Estimate(
            value=counts.gmacs_paper, n=counts.calls, unit="GMACs", role="cost", better="lower",
            convention=f"fvcore's count, without products inside fused attention, {per}",
        )  # fmt: skip
    if "encoder" in counts.beside:
        estimates["gmacs_encoder"] = Estimate(
            value=counts.beside["encoder"], n=1, unit="GMACs",
            convention=f"of the image encoder, per image, once; every matrix product{on}",
        )  # fmt: skip
    shares = {f"latency_{name}_s": seconds for name, seconds in parts.seconds.items()}
    shares["latency_text_s"] = float(np.median(text))
    for name, value in shares.items():
        estimates[name] = Estimate(value=value, n=1, unit="s", convention=f"one image, {kind}")
    return estimates, {"latency_dense_s": dense_s, "latency_method_s": own_s}


def save_images(images: np.ndarray, folder: Path, key: str) -> list[str]:
    """Write PNG files below the run folder; returns their paths relative to it."""
    place = folder / "images" / key
    place.mkdir(parents=True, exist_ok=True)
    names = []
    for row, image in enumerate(images):
        path = place / f"{row:05d}.png"
        part = path.with_suffix(".part")
        Image.fromarray(image).save(part, format="PNG")
        part.replace(path)
        names.append(path.relative_to(folder).as_posix())
    return names


def read_reference(record: Record, cases: Sequence[Any], folder: Path) -> Reference | None:
    """The dense point of an earlier run of this sweep; None where its images are gone."""
    try:
        images = np.stack([np.asarray(Image.open(folder / name).convert("RGB")) for name in record.images])
    except (OSError, ValueError):
        return None
    return Reference(Sample(tuple(cases), images), record.estimates["gmacs"].value)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:300]
