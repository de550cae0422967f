"""Two points, or two runs point by point: every metric paired by image, latency and cost, and bounds on them.

difference = A - B in everything: A is what is judged, B what it is measured against.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from results.analysis import modes
from results.analysis.bounds import Bound
from results.analysis.compare_types import CostRatio, MetricDifference, PointComparison
from results.analysis.comparisons import LOGARITHMIC
from results.analysis.conditions import condition
from results.analysis.differences import Features, NotComparable, difference, in_common
from results.analysis.paired import Difference
from results.analysis.statistics import block_medians
from results.record import Estimate, Record
from results.tables.formatting import compact_json

COST_NAMES = ("gmacs", "peak_memory_mb")
_CONVENTIONS = ("weights", "cases", "split", "sampler", "batch", "measurement", "task", "backbone")


def differing(a: Record, b: Record) -> list[str]:
    """What of two records' workloads is not the same, a line each. What only one record's metrics state is none of it:
    a metric in one record alone is not compared."""
    fields = {name: (getattr(a, name), getattr(b, name)) for name in ("task", "dtype", "steps", "n_cases")}
    fields["device"] = (a.device.partition(":")[0], b.device.partition(":")[0])
    if not (a.fingerprint.get("weights") and b.fingerprint.get("weights")):
        fields["model"] = (a.model, b.model)
    for name in dict.fromkeys((*a.fingerprint, *b.fingerprint)):
        one, other = a.fingerprint.get(name), b.fingerprint.get(name)
        if name in _CONVENTIONS or None not in (one, other):
            fields[name] = (one, other)
    return _lines(fields)


def provenance(a: Record, b: Record) -> list[str]:
    """Commits, versions and machines that are not the same, a line each."""
    names = dict.fromkeys((*a.environment, *b.environment))
    return _lines({name: (a.environment.get(name), b.environment.get(name)) for name in names})


def _lines(fields: Mapping[str, tuple[object, object]]) -> list[str]:
    different = ((name, one, other) for name, (one, other) in fields.items() if one != other)
    return [f"{name}: {_short(one)} in A, {_short(other)} in B" for name, one, other in different]


def same_points(a: Sequence[Record], b: Sequence[Record]) -> list[tuple[Record, Record]]:
    """The points that both runs have, in the order of A."""
    theirs = {_identity(record): record for record in b if record.usable}
    return [(record, theirs[_identity(record)]) for record in a if record.usable and _identity(record) in theirs]


def unpaired(a: Sequence[Record], b: Sequence[Record], names: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The points that one run alone has figures of, a line each, and the names of those that fail in A and not in B.
    names: of points, by key."""
    lines, broken = [], []
    sides = [{_identity(record): record for record in run} for run in (a, b)]
    for place, here in (("A", 0), ("B", 1)):
        for point, record in sides[here].items():
            other = sides[1 - here].get(point)
            if not record.usable or (other is not None and other.usable):
                continue
            why = "in one run alone" if other is None else f"{other.outcome} in {'BA'[here]}: {other.reason}"
            lines.append(f"{names[record.key]}: figures in {place} alone ({why})")
            if here == 1 and other is not None:
                broken.append(names[record.key])
    return lines, broken


def compare(
    a: Record, b: Record, names: tuple[str, str], features: Features, references: Features, limits: Sequence[Bound] = ()
) -> PointComparison:
    """features, references: see `difference`. limits: bounds that A must not be beyond. Raises NotComparable where no
    metric is in both, and BadBound for a bound on something that is not."""
    mine, other = ({name: e for name, e in record.estimates.items() if _judged(e)} for record in (a, b))
    shared = [name for name in mine if name in other]
    if not shared:
        each = [", ".join(some) or "none" for some in (mine, other)]
        raise NotComparable(f"no metric is in both: A has {each[0]}; B has {each[1]}")
    metrics = tuple(_metric(a, b, name, features, references) for name in shared)
    costs = tuple(_costs(a, b))
    alone = [f"{name} (A)" for name in mine if name not in other]
    alone += [f"{name} (B)" for name in other if name not in mine]
    notes = []
    if a.hardware != b.hardware:
        notes.append(f"latencies of different machines do not compare: {a.hardware} (A), {b.hardware} (B)")
    n = len(in_common(a, b)) if a.cases and b.cases else 0
    if n and n < max(a.n_cases, b.n_cases):
        notes.append(f"{n} images in common, of {a.n_cases} in A and {b.n_cases} in B")
    conditions = tuple(condition(one, metrics, costs) for one in limits)
    return PointComparison(
        a=names[0], b=names[1], key_a=a.key, key_b=b.key, metrics=metrics, costs=costs, in_one_alone=tuple(alone),
        conditions=conditions, notes=tuple(notes),
    )  # fmt: skip


def _identity(record: Record) -> str:
    return compact_json({"m": record.method, "s": record.settings, "t": record.task_settings, "r": record.ratio})


def _judged(estimate: Estimate) -> bool:
    return estimate.role == "quality" and estimate.better is not None and math.isfinite(estimate.value)


def _metric(a: Record, b: Record, name: str, features: Features, references: Features) -> MetricDifference:
    own, other = a.estimates[name], b.estimates[name]
    found: Difference | None = None
    note = ""
    try:
        found = difference(a, b, name, features, references)
    except NotComparable as error:
        note = str(error)
    value = own.value - other.value if found is None else found.value
    relative = value / abs(other.value) if other.value and own.unit not in LOGARITHMIC else None
    result = MetricDifference(
        metric=name, unit=own.unit, better=own.better or "lower", a=own.value, b=other.value, difference=value,
        relative=relative, note=note,
    )  # fmt: skip
    if found is None:
        return result
    update = {"low": found.low, "high": found.high, "p": found.p, "n": found.n, "detectable": found.detectable}
    return result.model_copy(update=update)


def _costs(a: Record, b: Record) -> list[CostRatio]:
    out = []
    for name in COST_NAMES:
        if name in a.estimates and name in b.estimates:
            own, other = a.estimates[name], b.estimates[name]
            ratio = own.value / other.value if other.value else None
            out.append(CostRatio(cost=name, unit=own.unit, a=own.value, b=other.value, ratio=ratio))
    if a.hardware == b.hardware:
        out += [latency_between(a, b, mode) for mode in modes.of(a.estimates) if latencies_compare(a, b, mode)]
    return out


def latencies_compare(a: Record, b: Record, mode: str) -> bool:
    """Whether both hold what `latency_between` takes."""
    name = modes.named(latency_of(a, b), mode)
    return a.hardware == b.hardware and name in a.estimates and name in b.estimates


def latency_of(a: Record, b: Record) -> str:
    """Ratios to dense, so that a machine that was slower on one day cancels; seconds where the settings of the task
    differ, since dense then does other work in each."""
    both = a.task_settings.keys() & b.task_settings.keys()  # older records lack what was no setting then
    return modes.RATIO if all(a.task_settings[x] == b.task_settings[x] for x in both) else modes.SECONDS


def latency_between(a: Record, b: Record, mode: str = modes.EAGER) -> CostRatio:
    """Of the ratios to dense, or of seconds, see `latency_of`; with Welch's interval over the blocks of both."""
    base = latency_of(a, b)
    name = modes.named(base, mode)
    own, other = a.estimates[name], b.estimates[name]
    low = high = None
    blocks = [_blocks(record, mode, relative=base == modes.RATIO) for record in (a, b)]
    if blocks[0] is not None and blocks[1] is not None:
        low, high = _between_blocks(np.log(blocks[0]), np.log(blocks[1]))
    ratio, pairs = own.value / other.value, min(own.n, other.n)
    return CostRatio(cost=name, unit=own.unit, a=own.value, b=other.value, ratio=ratio, low=low, high=high, pairs=pairs)


def _blocks(record: Record, mode: str, *, relative: bool) -> np.ndarray | None:
    """Ratios to dense, or seconds, by block (B,), from the raw samples; None for fewer than two."""
    own, dense = (record.samples.get(modes.named(f"latency_{who}_s", mode), ()) for who in ("method", "dense"))
    if len(own) != len(dense) or len(own) < 2:
        return None
    return block_medians(own, dense if relative else np.ones(len(own)))


def _between_blocks(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a ratio, from the logarithms of either side's blocks: Welch's."""
    from scipy.special import stdtrit  # slow to import, and tables are drawn without

    value, spread = a.mean() - b.mean(), [side.var(ddof=1) / len(side) for side in (a, b)]
    if not sum(spread):
        return float(np.exp(value)), float(np.exp(value))
    freedom = sum(spread) ** 2 / sum(v**2 / (len(side) - 1) for v, side in zip(spread, (a, b), strict=True))
    half = -float(stdtrit(freedom, 0.025)) * sum(spread) ** 0.5
    return float(np.exp(value - half)), float(np.exp(value + half))


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:12]}..."
