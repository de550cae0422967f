"""Made-up run folders for reports: images, values by image and token maps, without a model."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from results.analysis.statistics import bootstrap
from results.record import CaseFacts, Estimate, Record
from results.run_files import TokenMaps
from results.run_folder import RunFolder

HOSTILE = "<img src=x onerror=\"document.title='run'\"></script><b>bold</b> & \u2028 '\"`"
SIDE = 64


def make_run(
    folder: Path, methods: int = 2, ratios: int = 2, cases: int = 12, *, prompt: str = "", images: bool = True,
    model: str = "shapes", settings: dict[str, Any] | None = None, maps: bool = True, failed: bool = False,
    name: str = "method", fid: bool = False, wild: bool = False,
) -> Path:  # fmt: skip
    """A run of `methods` times `ratios` points and dense. prompt: of the first case. images: whether there are files.
    settings: of every point but dense. name: of the methods, before a number. fid: whether a distance between sets
    was measured. wild: whether the first point has an interval many times as long as the rest. Returns the folder."""
    rng = np.random.default_rng(0)
    facts = tuple(
        CaseFacts(prompt=prompt if prompt and row == 0 else f"caption {row} of a circle", seed=row)
        for row in range(cases)
    )
    dense = rng.gamma(8, 0.2, cases)
    points: list[tuple[str, float | None]] = [("dense", None)]
    points += [(f"{name}{m}", round((r + 1) / (ratios + 1), 4)) for m in range(methods) for r in range(ratios)]
    with RunFolder.grow(folder, {"model": model, "task": "text-to-image", "cases": cases, "rounds": 12}) as run:
        for index, (method, ratio) in enumerate(points):
            own = {} if ratio is None else {"ratio": ratio, **(settings or {})}
            key = hashlib.sha256(repr((model, method, ratio, own)).encode()).hexdigest()
            harm = (ratio or 0) * (0.1 + 0.3 * (index % max(1, methods)))
            record = Record(
                key=key, sample_key=key, method=method, settings=own, ratio=ratio, ratio_reached=ratio,
                task="text-to-image", model=model, device="cpu", dtype="float32", steps=20, n_cases=cases,
                cases=facts, outcome="failed" if failed and index == 1 else "ok",
                reason="ran out of <memory>" if failed and index == 1 else "",
                estimates=_estimates(method, ratio, dense, dense + harm + rng.normal(0, 0.1, cases) * (index > 0))
                | (_more(fid, wild and index == 1, ratio)),
                fingerprint={"weights": model, "cases": f"{model} {cases}"},
                environment={"commit": "abc" if index % 2 else "abd", "device": "a CPU", "threads": "2"},
                images=_images(run, key, cases, index, images), started="2026-01-01T00:00:00Z", seconds=1.5,
                token_maps=_maps(run, key) if maps and ratio else "",
            )  # fmt: skip
            run.put(record)
    return folder


def _estimates(method: str, ratio: float | None, dense: np.ndarray, own: np.ndarray) -> dict[str, Estimate]:
    def judged(values: np.ndarray, unit: str, better: str) -> Estimate:
        return Estimate(**bootstrap(values)._asdict(), n=len(values), unit=unit, role="quality", better=better,
                        convention="made up, image by image", values=tuple(values.tolist()))  # fmt: skip

    def plain(value: float, unit: str, **fields: Any) -> Estimate:
        return Estimate(**{"value": value, "n": 12, "unit": unit, "convention": "made up"} | fields)

    share = 1 - 0.9 * (ratio or 0)
    found = {
        "gmacs": plain(10 * share, "GMACs", role="cost", better="lower"),
        "latency_s": plain(0.4 * share, "s", role="cost", better="lower", low=0.35 * share, high=0.45 * share),
        "latency_ratio": plain(share, "method / dense", role="cost", better="lower", low=share - 0.05,
                               high=share + 0.05),
        "energy_j": plain(31.0 * share, "J", role="cost", better="lower"),
        "latency_denoiser_s": plain(0.36 * share, "s", n=1), "latency_vae_s": plain(0.03, "s", n=1),
        "truth[judge]": judged(own, "feature distance", "lower"),
        "alignment": judged(np.clip(1 - own / 20, 0, 1), "share", "higher"),
    }  # fmt: skip
    if method != "dense":
        found["psnr_to_dense"] = judged(35 - 4 * np.abs(own - dense), "dB", "higher")
    return found


def _more(fid: bool, wild: bool, ratio: float | None) -> dict[str, Estimate]:
    found = {}
    if fid:
        value = 12 + 20 * (ratio or 0)
        found["fid[judge]"] = Estimate(value=value, low=value - 1, high=value + 1, n=12, unit="", role="quality",
                                       better="lower", convention="made up", set_distance="frechet judge")  # fmt: skip
    if wild:
        found["latency_ratio"] = Estimate(value=0.8, low=0.5, high=40.0, n=12, unit="method / dense", role="cost",
                                          better="lower", convention="made up")  # fmt: skip
    return found


def _images(run: RunFolder, key: str, cases: int, index: int, there: bool) -> list[str]:
    if not there:
        return [f"images/{key}/{row:05d}.png" for row in range(cases)]
    across = np.linspace(0, 255, SIDE, dtype=np.uint8)
    pictures = np.zeros((cases, SIDE, SIDE, 3), np.uint8)
    pictures[..., 0], pictures[..., 1] = across, across[:, None]
    pictures[..., 2] = (np.arange(cases) * 7 % 256)[:, None, None]
    pictures[:, 8 : 16 + index % 24, 8:24] = 255
    return run.save_images(pictures, key)


def _maps(run: RunFolder, key: str) -> str:
    rng = np.random.default_rng(1)
    keep = (rng.random((6, 4, 8, 8)) > 0.3).astype(float)
    return run.save_token_maps(
        TokenMaps(keep, np.full((6, 16, 16, 3), 90, np.uint8), rng.random((6, 4, 8, 8)), rng.random((4, 2)) / 2), key
    )
