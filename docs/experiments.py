"""Tables of the experiments in docs/, from kept records: configurations, and one less another, over training seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from harness.compose import method_class
from results import Run, open_run
from results.analysis import seeds
from results.analysis.attribution import Pair
from results.analysis.differences import difference, seed_difference
from results.record import Record
from results.tables import attribution
from results.tables.formatting import interval, number, percent, rows

Fits = Callable[[Record], bool]


def _is(method: str, **settings: object) -> Fits:
    """Points of a method with these settings, and the others of a control as usual; older records lack some."""
    usual = {"control": "", "refitted": False, "same_ratios": False}
    wanted = usual | settings

    def fits(record: Record) -> bool:
        chosen = usual | record.settings
        return record.method == method and all(chosen.get(name, value) == value for name, value in wanted.items())

    return fits


REFERENCE = Path(__file__).resolve().parent.parent / "results" / "reference"
LT = _is("diffcr", axes="layer,timestep", preset="", ratio=0.3)
RANDOM = {"axes": "layer,timestep", "ratio": 0.3, "control": "random-tokens"}
AXES: dict[str, tuple[Fits, dict[str, Fits]]] = {
    "tokens": (LT, {
        "swapped": _is("diffcr", **RANDOM),
        "refitted, the same ratios": _is("diffcr", **RANDOM, refitted=True, same_ratios=True),
        "refitted, its own ratios learned anew": _is("diffcr", **RANDOM, refitted=True),
    }),
    "uniform-tokens": (_is("uniform", ratio=0.3), {
        "refitted: `random-ft`": _is("random-ft", ratio=0.3),
    }),
    "layers": (LT, {
        "refitted: `uniform`, 30 %": _is("uniform", ratio=0.3),
        "refitted: `uniform`, 27 % (as many GMACs)": _is("uniform", ratio=0.27),
    }),
    "timesteps": (LT, {
        "swapped: each layer's mean over the regions": _is("diffcr", **RANDOM | {"control": "averaged-timesteps"}),
        "refitted: DiffCR-L": _is("diffcr", axes="layer", ratio=0.3),
    }),
    "training-free": (LT, {
        "`tome`, tuned": _is("tome", first_layers=3, ratio=0.4725), "`at-edm`": _is("at-edm", ratio=0.31612),
        "`random-keep`": _is("random-keep", ratio=0.31635), "`sensitivity`": _is("sensitivity", ratio=0.59715),
    }),
    "training-free-20": (_is("diffcr", axes="layer,timestep", preset="", ratio=0.2), {
        "`tome`, tuned": _is("tome", first_layers=3, ratio=0.31005), "`at-edm`": _is("at-edm", ratio=0.20738),
        "`random-keep`": _is("random-keep", ratio=0.2061), "`sensitivity`": _is("sensitivity", ratio=0.3843),
    }),
    "at-edm": (_is("at-edm", ratio=0.1875), {"`random`, 4 layers exempt": _is("random", first_layers=4)}),
    "emoji": (LT, {
        f"{axis}: `{control}`": _is("diffcr", **RANDOM | {"control": control})
        for axis, control in (
            ("tokens", "random-tokens"), ("tokens", "average-tokens"), ("layers", "flat-layers"),
            ("timesteps", "averaged-timesteps"), ("timesteps", "reversed-timesteps"),
        )
    }),
    "emoji-fits": (LT, {
        "tokens, swapped: `random-tokens`": _is("diffcr", **RANDOM),
        "tokens, refitted: random, the same ratios": _is("diffcr", **RANDOM, refitted=True, same_ratios=True),
        "layers, refitted: `uniform`": _is("uniform", ratio=0.3),
        "layers, refitted: `uniform`, 28 % (as many GMACs)": _is("uniform", ratio=0.28),
        "timesteps, refitted: DiffCR-L": _is("diffcr", axes="layer", ratio=0.3),
    }),
    **{
        f"emoji-fitted-{100 * ratio:.0f}": (_is("diffcr", axes="layer,timestep", preset="", ratio=ratio), {
            f"`{name}` {100 * ratio:.0f} %": _is(name, ratio=ratio) for name in ("depth-ft", "width-ft", "uniform")
        })
        for ratio in (0.2, 0.5)
    },
}  # fmt: skip


STORES = {"emoji": "attribution_emoji"}
STORES |= dict.fromkeys(("emoji-fits", "emoji-fitted-20", "emoji-fitted-50"), "table1_emoji")
"""Of axes whose records are not those of Table 1 on `shapes`."""


def attributed(axis: str) -> str:
    """A method less each control of an axis, seed by seed and over the seeds."""
    run = open_run(REFERENCE / STORES.get(axis, "table1_shapes"))
    fits, controls = AXES[axis]
    own = {record.settings.get("seed", 0): record for record in run.records if fits(record)}
    pairs = [
        Pair(own[seed], record, axis, "", form, seed)
        for form, control in controls.items()
        for record in sorted(filter(control, run.records), key=lambda record: record.settings.get("seed", 0))
        for seed in ([record.settings["seed"]] if "seed" in record.settings else own)  # one without a seed is all's
        if seed in own
    ]
    table = attribution.frame(run, pairs)
    words = {
        "truth[": "truth (lower)",
        "distance_to_dense[": "distance to dense (lower)",
        "psnr_to_dense": "PSNR to dense, dB",
    }
    metrics = {
        name: label for start, label in words.items() for name in table["metric"].unique() if name.startswith(start)
    }
    lines = []
    for (form, seed), rows_of in table.groupby(["form", "seed"], sort=False):
        cells = []
        for metric in metrics:
            row = rows_of[rows_of["metric"] == metric].iloc[0]
            cells += [f"{row['difference']:+.3f} {interval(row['low'], row['high'])}", number(row["p"], 2)]
        cost = rows_of.iloc[0]
        lines.append([form, seed, *cells, f"{cost['gmacs_method'] / cost['gmacs_control']:.3f}"])
    head = ["control", "seed", *(cell for name in metrics.values() for cell in (name, "p")), "GMACs / control"]
    return rows(head, lines)


def configurations(
    run: Run, records: Iterable[Record], dense: Record, metrics: Mapping[str, str], name: Callable[[Record], str]
) -> str:
    """One line per configuration, by falling cost, training seeds taken together: GMACs, `metrics` (heading by name),
    and the first of them less dense's, paired."""
    groups: dict[str, list[Record]] = {}
    for record in filter(lambda record: record.usable, records):
        groups.setdefault(name(record), []).append(record)
    first, lines = next(iter(metrics)), []
    for called, members in sorted(groups.items(), key=lambda item: -gmacs_of(item[1])):
        words = ["", ""]
        if members != [dense]:
            less = (
                seed_difference(members, [dense], first)
                if len(members) > 1
                else difference(members[0], dense, first, run.features, run.references)
            )
            words = [f"{less.value:+.3f} {interval(less.low, less.high)}", number(less.p, 2)]
        cost = gmacs_of(members)
        costs = [f"{cost:.3f}", f"{cost / gmacs_of([dense]):.3f}"]
        lines.append([called, str(len(members)), *costs, *values_of(members, metrics), *words])
    less_dense = f"{metrics[first].split(' (')[0]} less dense's"
    return rows(["configuration", "fits", "GMACs", "GMACs / dense", *metrics.values(), less_dense, "p"], lines)


def gmacs_of(records: Sequence[Record]) -> float:
    return float(np.mean([record.estimates["gmacs"].value for record in records]))


def values_of(members: Sequence[Record], names: Iterable[str]) -> list[str]:
    cells = []
    for name in names:
        each = [record.estimates[name] for record in members if name in record.estimates]
        if not each:
            cells.append("")
            continue
        value, low, high = each[0].value, each[0].low, each[0].high
        if len(each) > 1:
            value, low, high, _ = seeds.over_seeds([estimate.value for estimate in each])
        cells.append(f"{number(value, 3)} {interval(low, high)}")
    return cells


def _called(record: Record) -> str:
    """The method, its ratio, and what differs from its defaults but the training seed."""
    usual = method_class(record.method)().settings.model_dump(mode="json")
    left_out = {"seed", "ratio", "axes"}
    differing = {k: v for k, v in record.settings.items() if k not in left_out and usual.get(k) != v}
    name = record.method
    if record.method == "diffcr":
        name = "DiffCR-LT" if record.settings["axes"] == "layer,timestep" else "DiffCR-L"
    return " ".join([name, *(f"{key}={value}" for key, value in differing.items()), percent(record.ratio)]).strip()


def table1_run(model: str = "shapes", *, of_one_seed: bool = False) -> Run:
    """Every configuration of a model but the controls that attribution shows; of_one_seed: training seed 0 alone."""
    folder = REFERENCE / f"table1_{model}"
    shown = (record for record in open_run(folder).records if not record.settings.get("control"))
    return Run((record for record in shown if not of_one_seed or not record.settings.get("seed")), folder)


def table1() -> str:
    """One line for each of them."""
    run = table1_run()
    (dense,) = (record for record in run.records if record.method == "dense")
    metrics = {
        "truth[shapes-judge]": "truth (lower)", "alignment": "alignment (higher)",
        "distance_to_dense[shapes-judge]": "distance to dense (lower)", "psnr_to_dense": "PSNR to dense, dB",
    }  # fmt: skip
    return configurations(run, run.records, dense, metrics, _called)


def table1_emoji() -> str:
    """One line for each of them on `emoji`."""
    run = table1_run("emoji")
    (dense,) = (record for record in run.records if record.method == "dense")
    metrics = {
        "truth[efficientnet-lite0]": "truth (lower)", "retrieval[efficientnet-lite0]": "nearest of 61 (higher)",
        "retrieval_top5[efficientnet-lite0]": "among 5 nearest (higher)", "psnr_to_dense": "PSNR to dense, dB",
    }  # fmt: skip
    return configurations(run, run.records, dense, metrics, _called)


_LT20, _UNIFORM20 = _is("diffcr", axes="layer,timestep", ratio=0.2), _is("uniform", ratio=0.2)
_DEPTH20 = _is("depth-ft", ratio=0.2)
_FIT = {
    "DiffCR-LT 20 %, 600 steps": ("table1_emoji", _LT20),
    "DiffCR-LT 20 %, 2,400 steps": ("longer_emoji", _LT20),
    "DiffCR-LT 20 %, 2,400 steps, own latents of 256 captions": ("longer_self_emoji", _LT20),
    "DiffCR-LT 20 %, 2,400 steps, own latents of 1,024 captions": ("longer_self1024_emoji", _LT20),
    "`uniform` 20 %, 2,400 steps, own latents of 1,024 captions": ("longer_self1024_emoji", _UNIFORM20),
    "`uniform` 20 %, 600 steps": ("table1_emoji", _UNIFORM20),
    "`uniform` 20 %, 2,400 steps": ("longer_emoji", _UNIFORM20),
    "`depth-ft` 20 %, 600 steps": ("table1_emoji", _DEPTH20),
    "`depth-ft` 20 %, 2,400 steps": ("longer_emoji", _DEPTH20),
    "DiffCR-LT 30 %, all 9,870 pictures": ("table1_emoji", LT),
    "DiffCR-LT 30 %, 256 pictures": ("few_pictures_emoji", LT),
    "DiffCR-LT 30 %, own latents of these 256 captions": ("self_emoji", LT),
}
"""Fits on `emoji` with training seed 0: store, and point."""
_FIT_PAIRS = (
    ("DiffCR-LT 20 %, 2,400 steps", "DiffCR-LT 20 %, 600 steps"),
    ("`uniform` 20 %, 2,400 steps", "`uniform` 20 %, 600 steps"),
    ("`depth-ft` 20 %, 2,400 steps", "`depth-ft` 20 %, 600 steps"),
    ("DiffCR-LT 20 %, 600 steps", "`uniform` 20 %, 600 steps"),
    ("DiffCR-LT 20 %, 2,400 steps", "`uniform` 20 %, 2,400 steps"),
    ("DiffCR-LT 20 %, 2,400 steps", "`depth-ft` 20 %, 2,400 steps"),
    ("DiffCR-LT 20 %, 2,400 steps, own latents of 256 captions", "DiffCR-LT 20 %, 2,400 steps"),
    ("DiffCR-LT 20 %, 2,400 steps, own latents of 1,024 captions", "DiffCR-LT 20 %, 2,400 steps"),
    (
        "DiffCR-LT 20 %, 2,400 steps, own latents of 1,024 captions",
        "DiffCR-LT 20 %, 2,400 steps, own latents of 256 captions",
    ),
    (
        "DiffCR-LT 20 %, 2,400 steps, own latents of 1,024 captions",
        "`depth-ft` 20 %, 2,400 steps",
    ),
    (
        "DiffCR-LT 20 %, 2,400 steps, own latents of 1,024 captions",
        "`uniform` 20 %, 2,400 steps, own latents of 1,024 captions",
    ),
    ("`uniform` 20 %, 2,400 steps, own latents of 1,024 captions", "`uniform` 20 %, 2,400 steps"),
    ("DiffCR-LT 30 %, own latents of these 256 captions", "DiffCR-LT 30 %, all 9,870 pictures"),
    ("DiffCR-LT 30 %, 256 pictures", "DiffCR-LT 30 %, all 9,870 pictures"),
    ("DiffCR-LT 30 %, own latents of these 256 captions", "DiffCR-LT 30 %, 256 pictures"),
)
"""What is taken from what."""


def fits_emoji() -> str:
    """Fits that differ in steps or data, each less another one and less dense."""
    table1, truth = table1_run("emoji"), "truth[efficientnet-lite0]"
    (dense,) = (record for record in table1.records if record.method == "dense")
    runs = {store: open_run(REFERENCE / store) for store, _ in _FIT.values()}
    lines = []
    for names in _FIT_PAIRS:
        own, other = (
            next(r for r in runs[store].records if fits(r) and not r.settings.get("seed"))
            for store, fits in map(_FIT.__getitem__, names)
        )
        cells = []
        for one in (other, dense):
            less = difference(own, one, truth, lambda *_: None, lambda *_: None)
            cells += [f"{less.value:+.3f} {interval(less.low, less.high)}", number(less.p, 2)]
        costs = [f"{gmacs_of([own]) / gmacs_of([one]):.3f}" for one in (dense, other)]
        lines.append([*names, *costs, *values_of([own], [truth]), *cells])
    costs_of = ["GMACs / dense", "GMACs / the other"]
    return rows(["fit", "less", *costs_of, "truth (lower)", "difference", "p", "less dense's", "p"], lines)


def table2(area: float, encoder_ratio: float = 0.0) -> str:
    """Every configuration of `shapes-inpaint` at one mask area, less dense of `lazy`."""
    run = open_run(REFERENCE / "table2_shapes")
    wanted = {"mask_area": area, "encoder_ratio": encoder_ratio}
    chosen = [record for record in run.records if wanted.items() <= record.task_settings.items()]
    (dense,) = (record for record in chosen if record.method == "dense" and record.task_settings["strategy"] == "lazy")
    metrics = {
        "truth[shapes-judge]": "truth (lower)", "alignment_masked": "masked alignment (higher)",
        "seam_error[true]": "seam to true (lower)", "seam_error[dense]": "seam to dense (lower)",
        "psnr_to_dense": "PSNR to dense, dB",
    }  # fmt: skip
    return configurations(
        run, chosen, dense, metrics, lambda record: f"`{record.task_settings['strategy']}` {_called(record)}"
    )


BLOCKS: dict[str, Callable[[], str]] = {
    "table1": table1,
    "table1-emoji": table1_emoji,
    "fits-emoji": fits_emoji,
    "table2-small": partial(table2, 0.06),
    "table2-large": partial(table2, 0.25),
    **{f"attribution-{axis}": partial(attributed, axis) for axis in AXES},
}
