"""A verdict for reading: Markdown, JSON, and a short form for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from results.analysis.verdict_types import Compared, Cost, ModeLatency, Rank, Section, Verdict
from results.files import write_atomic
from results.tables.formatting import DIRECTIONS, change, code, interval, number, percent, plain
from results.tables.markdown import rows

PASSED = {True: "pass", False: "fail", None: "open"}
_READING = """\
- **difference**: method less comparator, paired by image; [low, high]: 95 % interval (over seeds and images where
  there are several training seeds); in % of the comparator's mean.
- **verdict**: *better* or *worse*: the difference is no accident of these images, nor of
  the training seeds where there are several (p, adjusted by Holm over the family,
  at most 0.05). *no worse than margin*: a loss as large as the margin is excluded (one-sided, 0.025). *not
  distinguishable*: neither; *detectable* is the smallest true difference that so many images find 8 times in 10, taken
  alone, before Holm's correction.
- **family**: all comparisons with dense in the headline metric, named before anything is looked at. What is marked
  exploratory is for ideas, not for claims.
- **cost**: of dense's; latency with its 95 % interval over interleaved pairs. Of several training seeds the mean, and
  the interval is Student's over the seeds.
- **settles it**: so many images would give a verdict 8 times in 10 if the truth is what was measured, and the time that
  they take.
- **probability of the best mean**: the share of resamples of the images, and of training seeds where a point has
  several, in which its mean is the best. Of a point with one seed, of images alone, which says nothing of another
  training."""
_FIDELITY = (
    "The records hold no distance to true pictures, so the headline is fidelity: how near a method stays to dense's "
    "own image. That is no quality; no margin of it is harmless, and dense itself has no figure of it. *better* means "
    "nearer to dense."
)


def write_verdict(verdict: Verdict, folder: Path) -> list[Path]:
    """tables/verdict.md and verdict.json below `folder`."""
    tables = folder / "tables"
    return [
        write_atomic(tables / "verdict.md", document(verdict)),
        write_atomic(tables / "verdict.json", verdict.model_dump_json(indent=1) + "\n"),
    ]


def document(verdict: Verdict) -> str:
    """The verdict as Markdown, one section per group of comparable points."""
    parts = ["# Verdict", _READING]
    for section in verdict.sections:
        parts += _section(section)
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> Iterator[str]:
    yield f"## {plain(section.setup)}"
    if section.metric:
        yield _about(section)
    if section.notes:
        yield "\n".join(f"- {plain(note[:1].upper() + note[1:])}." for note in section.notes)
    if section.fidelity:
        yield _FIDELITY
    for block in section.blocks:
        if block.to_dense or block.to_rival:
            yield f"### {block.title}"
        if block.to_dense:
            yield "Against dense:"
            yield rows(("point", "verdict", "difference", "%", "p, Holm", *_COSTS, "settles it"),
                       (_line(one) for one in block.to_dense))  # fmt: skip
        if block.to_rival:
            family = "" if section.fidelity else " (exploratory)"
            yield f"Against the best rival{family}:"
            yield rows(("point", "rival", "verdict", "difference", "%", "p, Holm", "settles it"),
                       (_rival(one) for one in block.to_rival))  # fmt: skip
        if block.ranks:
            tied = [one.point for one in block.ranks if one.low == 1]
            yield f"Share the first place: {plain(', '.join(tied))}."
            yield rows(("point", "probability of the best mean", "ranks"), map(_rank, block.ranks))
    if section.other_metrics:
        yield "### Other metrics against dense (exploratory, not adjusted)"
        yield rows(("point", "metric", "difference", "p", "direction"), (_other(one) for one in section.other_metrics))
    if section.tolerances:
        yield "### MLPerf's tolerances"
        yield (
            "FID within 2 % of dense's, by the two figures alone, from 1,000 images on; CLIP score within 0.2 %, by "
            "the interval of the paired difference: *open* where that lies on both sides."
        )
        yield rows(("point", "metric", "value", "dense", "n", "within"),
                   ((plain(t.point), code(t.metric), number(t.value), number(t.dense), str(t.n),
                     PASSED[t.within]) for t in section.tolerances))  # fmt: skip


_COSTS = ("GMACs", "latency")


def _about(section: Section) -> str:
    better = DIRECTIONS[section.better or "lower"]
    text = f"Headline: {code(section.metric)}, {plain(section.unit)}, {plain(section.convention)}; {better}; "
    text += f"n = {section.n}."
    if section.dense is not None and section.margin is not None:
        text += f" Dense: {number(section.dense)}; margin: {percent(section.margin)} of it."
    return f"{text} {resolution(section)}".strip()


def resolution(section: Section) -> str:
    """What so many images can resolve; "" where nothing was compared."""
    if section.resolution is None:
        return ""
    low, high = section.resolution
    unit = section.unit if section.fidelity else f"of {'dense' if section.dense is not None else 'the mean'}'s"
    some = [percent(float(f"{x:.2g}")) if not section.fidelity else number(x, 2) for x in (low, high)]
    span = some[0] if some[0] == some[1] else f"{some[0]} to {some[1]}"
    return (
        f"{section.n} images show differences from {span} {unit} on, 8 times in 10, each taken alone; smaller ones "
        "they cannot tell."
    )


def _line(one: Compared) -> list[str]:
    return [plain(one.method), one.text, *_figures(one), *_cost(one.cost), _settle(one)]


def _rival(one: Compared) -> list[str]:
    return [plain(one.method), plain(one.comparator), one.text, *_figures(one), _settle(one)]


def _figures(one: Compared) -> tuple[str, str, str]:
    return _difference(one), change(one.relative), number(one.p_adjusted, 2)


def _other(one: Compared) -> list[str]:
    return [plain(one.method), code(one.metric), _difference(one), number(one.p, 2), DIRECTIONS[one.better]]


def _difference(one: Compared) -> str:
    return f"{one.difference:+.3g} {interval(one.low, one.high)}".strip()


def _cost(cost: Cost, between: str = "; ") -> tuple[str, str]:
    each = (latency(cost), *(f"{one.mode} {latency(one)}" for one in cost.modes))
    return number(cost.gmacs, 3), between.join(filter(None, each))


def latency(one: Cost | ModeLatency, *, word: bool = True) -> str:
    """The ratio to dense with its interval, and with what the verdict says of it."""
    said = one.latency_word if word else ""
    return " ".join(f"{number(one.latency, 3)} {interval(one.latency_low, one.latency_high)} {said}".split())


def _rank(one: Rank) -> list[str]:
    ranks = str(one.low) if one.low == one.high else f"{one.low} to {one.high}"
    return [plain(one.point), percent(round(one.best, 3)), ranks]


def _settle(one: Compared) -> str:
    if one.settle_images is None:
        return ""
    count = float(f"{one.settle_images:.2g}") if one.settle_images > 100 else one.settle_images
    time = "" if one.settle_minutes is None else f", {duration(one.settle_minutes)}"
    return f"about {count:,.0f} images{time}"


def duration(minutes: float) -> str:
    """In minutes, or hours from 100 minutes on."""
    return f"{minutes:.2g} min" if minutes < 99.5 else f"{minutes / 60:,.0f} h"


# -- the terminal --------------------------------------------------------------------------------------------------


def show(verdict: Verdict, console: Console, width: int = 120) -> None:
    """The short form: a line per point, what the images can resolve, and what would settle what is open."""
    for section in verdict.sections:
        if len(verdict.sections) > 1:
            console.print(Text(section.setup, "bold"), width=width)
        if section.metric:
            console.print(Text(_title(section), "bold"), width=min(console.width, width))
            compared = any(True for _ in _compared(section))
            for drawn in _short(section, min(console.width, width)) if compared else ():
                console.print(drawn, width=min(console.width, width))
            if not compared:
                console.print("no point beside dense: nothing to compare")
        for line in _below(section):
            console.print(Text(line), width=min(console.width, width))


def _title(section: Section) -> str:
    about = f"verdict: {section.metric}, {DIRECTIONS[section.better or 'lower']}, {section.n} images"
    if section.margin is not None:
        about += f"; margin {percent(section.margin)} of dense's {number(section.dense, 3)}"
    if section.fidelity:
        about += "; fidelity to dense, not quality"
    return about


def _short(section: Section, width: int) -> Iterator[RichTable | Text]:
    """The table, and what has left it: where it is too wide, intervals stand below their figures, and where that is not
    enough, the costs leave, latency first."""
    heads = ["point", "against", "verdict", "difference [95 %]", *_COSTS]
    for gap in (" ", "\n"):
        lines = [_short_line(one, gap) for one in _compared(section)]
        needed = _needed([heads[:3] + [head.replace(" [", f"{gap}[") for head in heads[3:]], *lines])
        if sum(needed) + 1 <= width:
            break
    shown = len(heads)
    while sum(needed[:shown]) + 1 > width and heads[shown - 1] in _COSTS:
        shown -= 1
    drawn = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1))
    for place, head in enumerate(heads[:shown]):
        longest = _LONGEST if place < 2 else None
        drawn.add_column(head.replace(" [", f"{gap}["), overflow="fold", no_wrap=place > 2, max_width=longest)
    for line in lines:
        drawn.add_row(*line[:shown])
    yield drawn
    if shown < len(heads):
        yield Text(f"Too wide for {width} columns: {' and '.join(heads[shown:])}; see tables/verdict.md.")


_LONGEST = 24  # characters of a name on one line


def _needed(rows: Sequence[Sequence[str | Text]]) -> list[int]:
    """Columns of the terminal that each column takes with its padding; words alone may wrap in the verdict."""
    found = []
    for place, column in enumerate(zip(*rows, strict=True)):
        parts = [str(cell).split() if place == 2 else str(cell).split("\n") for cell in column]
        longest = max(cell_len(part) for some in parts for part in some or [""])
        found.append(3 + (min(longest, _LONGEST) if place < 2 else longest))
    return found


def _short_line(one: Compared, gap: str) -> list[Text]:
    mark = " *" if one.family == "exploratory" else ""
    difference = f"{change(one.relative)} {_bounds(one)}" if one.relative is not None else _difference(one)
    gmacs, took = _cost(one.cost, "\n")
    figures = (difference.replace(" [", f"{gap}["), gmacs, took.replace(" [", f"{gap}[").replace("] ", f"]{gap}"))
    verdict = Text(one.text + mark, _STYLES[one.word])
    return [Text(one.method), Text(one.comparator), verdict, *map(Text, figures)]


_STYLES = {"better": "green", "no worse than margin": "green", "worse": "red", "not distinguishable": "dim"}


def _compared(section: Section) -> Iterable[Compared]:
    for block in section.blocks:
        yield from block.to_dense
        yield from block.to_rival


def _bounds(one: Compared) -> str:
    """The interval in % of the comparator's mean."""
    if one.low is None or one.high is None or one.share is None:
        return ""
    return f"[{', '.join(change(bound * one.share).removesuffix(' %') for bound in (one.low, one.high))}]"


def _below(section: Section) -> Iterator[str]:
    if any(one.family == "exploratory" for one in _compared(section)):
        yield "* exploratory: the best rival is chosen after looking"
    if text := resolution(section):
        yield text
    for one in _compared(section):
        if settle := _settle(one):
            yield f"{one.method} against {one.comparator}: {settle} would settle it"
    yield from section.notes
