"""Do routers choose? Trials on development scenes of `shapes` that no benchmark reads: fits with settings of routing,
each evaluated with its own routers and with random tokens in their place, and refitted with random tokens.

    python benchmarks/routers.py free                        # training-free: selections in layers 2 to 6
    python benchmarks/routers.py fit NAME METHOD [SET ...]   # one fit at --ratio, straight to its target
    python benchmarks/routers.py evaluate NAME [LABEL:SETTING=VALUE ...]
    python benchmarks/routers.py compare A B                 # paired: A - B, names as in results.csv
    python benchmarks/routers.py objects NAME                # share of object and ground tokens kept, by layer

Everything is kept in --cache (by default .routers), and what stands there is not computed again: adapters in
`fits/NAME`, values per scene in `values/*.npz`, means in `results.csv`, paired differences in `differences.csv`.
Scenes: 64 of the calibration split, from index 5,000 on; fits train on the train split, and calibrations read the
calibration split's first 2,048 scenes.

Metrics: PSNR to dense of the whole image, inside objects and on the ground (dB); distance to the true render and to
dense in the judge's features (lower is better).
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from pydantic import BaseModel

from harness.attach import attached
from harness.backbones.following import track_sampler
from harness.compose import method_class
from harness.fitting.options import FitOptions
from harness.fitting.request import Request
from harness.method import Method
from harness.models import Model, load
from harness.spec import Call, Case, State
from harness.tokens import kept_count
from harness.zoo.shapes import judge, scene
from methods.common.routing import Routed
from tasks.text_to_image import TextToImage

FIRST, METRICS = 5000, ("psnr", "psnr_objects", "psnr_ground", "truth", "to_dense")


class Bench:
    def __init__(self, cache: Path, count: int, steps: int) -> None:
        self.cache, self.count, self.steps = cache, count, steps
        self.scenes = scene.sample("calibration", range(FIRST, FIRST + count))
        self.render, coverage = scene.render(self.scenes)
        self.objects = coverage > 0.5  # (B, S, S)
        self.cases = tuple(Case(i, caption, seed=FIRST + i) for i, caption in enumerate(self.scenes.captions()))
        self.judge = judge.load()
        for name in ("fits", "values"):
            (cache / name).mkdir(parents=True, exist_ok=True)

    def model(self, adapters: Path | None = None) -> Model:
        return load("shapes", adapters=() if adapters is None else (adapters,))

    def draw(self, model: Model, method: Method | None, state: State | None) -> torch.Tensor:
        """Images (B, 3, S, S)."""
        task = TextToImage(model, steps=self.steps, guidance=2.0)
        with ExitStack() as stack:
            stack.enter_context(track_sampler(model.backbone, model.pipeline, True))
            if method is not None:
                stack.enter_context(attached(model.backbone, method, state))
            parts = [self.cases[start : start + 32] for start in range(0, self.count, 32)]
            return torch.cat([task.generate(part) for part in parts]).clamp(0, 1)

    @torch.no_grad()
    def measured(self, images: torch.Tensor, dense: torch.Tensor) -> dict[str, np.ndarray]:
        error = (images - dense).square().mean(1)  # (B, S, S)

        def psnr(mask: torch.Tensor) -> torch.Tensor:
            mean = (error * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)
            return -10 * mean.clamp(min=1e-8).log10()

        features = [self.judge(one)[1] for one in (images, dense, self.render)]
        found = {
            "psnr": psnr(torch.ones_like(self.objects)),
            "psnr_objects": psnr(self.objects),
            "psnr_ground": psnr(~self.objects),
            "truth": (features[0] - features[2]).norm(dim=1),
            "to_dense": (features[0] - features[1]).norm(dim=1),
        }
        return {name: value.numpy() for name, value in found.items()}

    def dense(self, model: Model) -> torch.Tensor:
        path = self.cache / f"dense-{self.count}-{self.steps}.pt"
        if not path.exists():
            images = self.draw(model, None, None)
            torch.save(images, path)
            self.keep("dense", images, images)
        return torch.load(path)

    def keep(self, name: str, images: torch.Tensor, dense: torch.Tensor, seconds: float = 0.0) -> None:
        found = self.measured(images, dense)
        np.savez(self.path(name), **found)
        row: dict[str, Any] = {"name": name, "n": self.count, "steps": self.steps, "seconds": round(seconds)}
        for metric, values in found.items():
            row |= {metric: round(float(values.mean()), 4), f"{metric}_se": round(_error(values), 4)}
        append(self.cache / "results.csv", row)
        print({k: v for k, v in row.items() if not k.endswith("_se")}, flush=True)

    def path(self, name: str) -> Path:
        return self.cache / "values" / f"{name}-{self.count}-{self.steps}.npz"


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def append(path: Path, row: dict[str, Any]) -> None:
    new = not path.exists()
    with open(path, "a", newline="") as handle:
        writer = csv.DictWriter(handle, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


class _Layers(Method):
    """Tokens dropped in layers 2 to 6 of the dense model by routers (L, D) and noise."""

    name = "layers"

    def __init__(self, weight: torch.Tensor, temperature: float, ratio: float) -> None:
        super().__init__()
        self.weight, self.temperature, self.share = weight, temperature, ratio

    @contextmanager
    def attach(self, backbone: Any, state: State | None = None) -> Iterator[None]:
        routed = Routed.fitted({"rescale": "none", "score_scale": 1.0}, self.temperature)

        def block(call: Call) -> torch.Tensor:
            return routed.block(call, self.weight[call.layer], kept_count(self.share, call.x.shape[1]))

        with routed.on(backbone, block, range(2, 7)):
            yield


def free(bench: Bench, ratio: float) -> None:
    from harness.fitting.data import data_for
    from harness.fitting.fit import _calibration_pass
    from harness.fitting.objective import Objective
    from methods.common import sensitivity

    model = bench.model()
    dense = bench.dense(model)
    for module in model.modules:
        module.requires_grad_(False)
    options = FitOptions.model_validate({})
    data = data_for(model, options, trains=False, folder=None, work=bench.cache)
    objective = Objective(model.pipeline.scheduler, 20)

    def watch(each: Any = None, **how: Any) -> None:
        _calibration_pass(model, objective, options, data, 0, each, **how)

    def noised(each: Any = None, **how: Any) -> None:
        _calibration_pass(model, objective, options, data, 0, each, batches=16)

    with torch.no_grad():
        began = time.monotonic()
        ridge = sensitivity.read_sensitivity(model.backbone, watch)
        print(f"calibrated in {time.monotonic() - began:.1f} s; spread of log s by layer: "
              f"{[round(x, 2) for x in ridge.spread(ridge.solve()).tolist()]}")  # fmt: skip
        weights = {
            "sensitivity": ridge.solve(),
            "sensitivity-noised": sensitivity.read_sensitivity(model.backbone, noised).solve(),
            "update": sensitivity.read_updates(model.backbone, noised).solve(),
        }
    plan = [("sensitivity", 1e6), ("update", 0.0), *(("sensitivity", t) for t in (0.0, 0.25, 0.5, 1.0, 2.0))]
    plan += [("sensitivity-noised", t) for t in (0.0, 0.5)]
    for name, temperature in plan:
        label = "free-random" if temperature > 1e3 else f"free-{name}-{temperature:g}"
        if not bench.path(label).exists():
            bench.keep(label, bench.draw(model, _Layers(weights[name], temperature, ratio), None), dense)


def values_of(texts: list[str]) -> dict[str, Any]:
    return {name: yaml.safe_load(value) for name, _, value in (text.partition("=") for text in texts)}


def fit(bench: Bench, name: str, method: str, ratio: float, texts: list[str]) -> None:
    folder, cls = bench.cache / "fits" / name, method_class(method)
    if list(folder.glob("*.safetensors")):
        return
    given = values_of(texts)
    kinds: tuple[type[BaseModel], ...] = (cls.Settings, cls.FitSettings, FitOptions)
    settings, own, loop = (
        {k: v for k, v in given.items() if k in kind.model_fields and not any(k in o.model_fields for o in kinds[:i])}
        for i, kind in enumerate(kinds)
    )
    if unknown := set(given) - {*settings, *own, *loop}:
        raise SystemExit(f"unknown settings: {unknown}")
    options = FitOptions.model_validate({"by_product": 0.0, **loop})
    began = time.monotonic()
    request = Request(method, settings, (ratio,), options, cls.FitSettings.model_validate(own))
    paths = request.run("shapes", folder)
    row = {"name": name, "method": method, "set": " ".join(texts), "minutes": round((time.monotonic() - began) / 60, 1)}
    append(bench.cache / "fits.csv", row | {"adapter": paths[0].name})


def evaluate(bench: Bench, name: str, variants: list[str]) -> None:
    """With the fit's own settings as `NAME`, and as `NAME/LABEL` with others."""
    (path,) = (bench.cache / "fits" / name).glob("*.safetensors")
    model = bench.model(path.parent)
    state = model.adapter(path.stem)
    cls, dense = method_class(state.facts["method"]), bench.dense(model)
    for variant in ["", *variants]:
        label, _, setting = variant.partition(":")
        full = name + (f"+{label}" if label else "")
        if bench.path(full).exists():
            continue
        saved = state.facts["settings"] | values_of([setting] if setting else [])
        method = cls(cls.Settings.model_validate(saved))
        began = time.monotonic()
        images = bench.draw(model, method, state)
        bench.keep(full, images, dense, time.monotonic() - began)


def compare(bench: Bench, first: str, second: str) -> None:
    a, b = np.load(bench.path(first)), np.load(bench.path(second))
    row: dict[str, Any] = {"first": first, "second": second, "n": bench.count}
    for metric in METRICS:
        difference = a[metric] - b[metric]
        row |= {metric: round(float(difference.mean()), 4), f"{metric}_se": round(_error(difference), 4)}
    append(bench.cache / "differences.csv", row)
    parts = [f"{metric} {row[metric]:+.3f} +- {row[metric + '_se']:.3f}" for metric in METRICS]
    print(f"{first} - {second}: {', '.join(parts)}", flush=True)


def objects(bench: Bench, name: str) -> None:
    """How often tokens go through each layer, inside objects and on the ground, over eight scenes and all steps; beside
    it the cosine of each router to its start, and how much longer it is, where `s-frozen` holds the start."""
    (path,) = (bench.cache / "fits" / name).glob("*.safetensors")
    model = bench.model(path.parent)
    state = model.adapter(path.stem)
    cls = method_class(state.facts["method"])
    few = bench.cases[:8]
    inside = torch.nn.functional.avg_pool2d(bench.objects[:8, None].float(), 4).flatten(1) > 0.5  # (B, N)
    kept = torch.zeros(model.backbone.layers, 2)
    task = TextToImage(model, steps=bench.steps, guidance=2.0)

    def watch(call: Call) -> torch.Tensor:
        everything = torch.ones(len(call.x), call.grid.tokens)
        went = everything if call.index is None else (0 * everything).scatter(1, call.index, 1.0)
        for column, mask in enumerate((inside, ~inside)):
            both = torch.cat([mask, mask])
            kept[call.layer, column] += (went * both).sum() / both.sum() / bench.steps
        return call.run(call.x)

    with (
        torch.no_grad(),
        track_sampler(model.backbone, model.pipeline, True),
        attached(model.backbone, cls(cls.Settings.model_validate(state.facts["settings"])), state),
        model.backbone.advise("block", watch),
    ):
        task.generate(few)
    start = sorted((bench.cache / "fits" / "s-frozen").glob("*.safetensors"))
    first = bench.model(start[0].parent).adapter(start[0].stem).tensors["router"] if start else None
    for layer, (object_share, ground_share) in enumerate(kept.tolist()):
        row: dict[str, Any] = {"name": name, "layer": layer, "objects": round(object_share, 3)}
        row["ground"] = round(ground_share, 3)
        if first is not None and "router" in state.tensors:
            own = state.tensors["router"][layer]
            row["cosine"] = round(float(torch.nn.functional.cosine_similarity(own, first[layer], dim=0)), 3)
            row["longer"] = round(float(own.norm() / first[layer].norm()), 3)
        append(bench.cache / "objects.csv", row)
        print(row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["free", "fit", "evaluate", "compare", "objects"])
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--cases", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help="sampling steps")
    parser.add_argument("--cache", type=Path, default=Path(".routers"))
    args = parser.parse_args()
    bench, rest = Bench(args.cache.resolve(), args.cases, args.steps), args.rest
    if args.command == "free":
        free(bench, args.ratio)
    elif args.command == "fit":
        fit(bench, rest[0], rest[1], args.ratio, rest[2:])
    elif args.command == "evaluate":
        evaluate(bench, rest[0], rest[1:])
    elif args.command == "objects":
        objects(bench, rest[0])
    else:
        compare(bench, *rest)


if __name__ == "__main__":
    main()
