"""Tables, pictures and JSON schemas of README.md and docs/, drawn from the kept records in results/reference.

    python docs/draw.py            # draw them
    python docs/draw.py --check    # fail where a table is not what its records say

A drawn table stands between `<!-- drawn: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import experiments
import gpu_tables
import matplotlib as mpl
import pandas as pd
import rival_tables
from rich.console import Console

from results import Run, open_run
from results.analysis.compare_types import Comparison
from results.analysis.verdict_types import Compared, Verdict
from results.compare import compare_runs
from results.plots import look, pareto_plot
from results.plots.png import write_png
from results.recommend import recommended
from results.record import SCHEMA_VERSION
from results.tables import dictionary
from results.tables import recommend as recommend_tables
from results.tables import verdict as verdict_tables
from results.tables.compare import document
from results.tables.formatting import interval, number, percent, rows

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = experiments.REFERENCE
DEFAULT = REFERENCE / "default"
_BLOCK = re.compile(r"<!-- drawn: ([\w-]+) -->\n(.*?)<!-- end -->", re.DOTALL)
_MEASURED = re.compile(r"^\|.*\[-?[\d.]+, -?[\d.]+\]", re.MULTILINE)
_WIDTH = 120  # characters of a terminal
UNDRAWN = {
    "profile.md": "joint blocks: printed by benchmarks/joint_blocks.py, which keeps no records",
    "shapes.md": "read by hand off a run of 512 images that is not kept",
}
"""Pages with tables of measured figures that are not drawn from records, and why. To be emptied."""


def default_verdict() -> str:
    """The first table of the README: what the default run says of each point."""
    (section,) = open_run(DEFAULT).verdict().sections
    lines = []
    for block in section.blocks:
        rivals = {one.method: one for one in block.to_rival}
        for one in block.to_dense:
            cost, rival = one.cost, rivals.get(one.method)
            against = "" if rival is None else f"{rival.word} than {rival.comparator}, {_relative(rival)}"
            if rival is not None and rival.word == "not distinguishable":
                against = f"not distinguishable from {rival.comparator}, {_relative(rival)}"
            latency = f"{number(cost.latency or 0, 3)} {interval(cost.latency_low, cost.latency_high)}"
            lines.append([one.method, number(cost.gmacs or 0, 3), latency, f"{one.word}, {_relative(one)}", against])
    head = ["point", "GMACs / dense", "latency / dense", "truth, against dense", "against the best rival (exploratory)"]
    return rows(head, lines)


def _relative(one: Compared) -> str:
    scale = 100 * (one.relative or 0) / one.difference if one.difference else 0.0
    low, high = (None if bound is None else scale * bound for bound in (one.low, one.high))
    return f"{100 * (one.relative or 0):+.2g} % {interval(low, high)}"


def step_costs() -> str:
    """A denoiser step at real size on a CPU, by method, ratio and part."""
    frame = pd.read_csv(REFERENCE / "pixart_sigma_512_cpu" / "profile.csv")
    parts = ("attention", "cross_attention", "mlp", "routing", "rest")
    dense = frame.loc[frame["method"] == "dense", "gmacs"].item()
    lines = []
    for row in frame.to_dict("records"):
        share, ratio = row["gmacs"] / dense, row["latency_ratio"]
        lines.append([
            row["method"], percent(None if pd.isna(row["ratio"]) else row["ratio"]), f"{row['gmacs']:,.1f}",
            f"{share:.3f}", f"{row['latency_s']:.2f}",
            f"{ratio:.3f} [{row['latency_ratio_low']:.3f}, {row['latency_ratio_high']:.3f}]", f"{ratio / share:.3f}",
            *(f"{row[f'latency_{part}_s']:.2f}" for part in parts),
        ])  # fmt: skip
    head = [
        "method", "C.R.", "GMACs", "of dense", "latency, s", "latency ratio", "latency / GMACs", "self-attention",
        "cross-attention", "MLP", "routing, merging", "rest",
    ]  # fmt: skip
    return rows(head, lines)


def default_compare() -> str:
    """What `compare` prints for two points of the default run, as in a terminal."""
    a, b = (f"{DEFAULT.relative_to(ROOT)}:{point}" for point in ("diffcr@0.2", "tome@0.2"))
    condition = "alignment<-1%"
    found = document(compare_runs(*(str(ROOT / name) for name in (a, b)), fail_if=[condition]))
    text = found.replace(f"{ROOT}/", "").strip()
    return f"```\n$ python -m harness compare {a} {b} --fail-if '{condition}'\n{text}\n```"


def default_verdict_shown() -> str:
    """The verdict of the default run as a terminal shows it."""
    screen = Console(file=io.StringIO(), width=_WIDTH)
    verdict_tables.show(open_run(DEFAULT).verdict(), screen, _WIDTH)
    return _screen(screen)


def default_recommend() -> str:
    """What `recommend` prints for two bounds on the default run."""
    most, least = ["gmacs=0.9"], ["alignment=-1%"]
    screen = Console(file=io.StringIO(), width=_WIDTH)
    recommend_tables.show(recommended([DEFAULT], most, least), screen)
    command = f"$ python -m harness recommend {DEFAULT.relative_to(ROOT)} --max {most[0]} --min {least[0]}"
    return _screen(screen, command)


def _screen(screen: Console, *before: str) -> str:
    written = screen.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(["```", *before, *(line.rstrip() for line in written.strip("\n").split("\n")), "```"])


def csv_point() -> str:
    """The columns of results.csv that say which point a row is."""
    return dictionary.point_columns(open_run(DEFAULT))


def csv_figures() -> str:
    """Its figures, as kept runs of the present schema hold them."""
    stores = [DEFAULT, *sorted(path.parent for path in REFERENCE.glob("*/store.sqlite"))]
    records = [record for store in stores for record in open_run(store).records]
    return dictionary.figures(record for record in records if record.schema_version == SCHEMA_VERSION)


BLOCKS: dict[str, Callable[[], str]] = {
    "default-verdict": default_verdict, "default-verdict-shown": default_verdict_shown,
    "default-recommend": default_recommend, "default-compare": default_compare,
    "step-costs": step_costs, "csv-point": csv_point, "csv-figures": csv_figures,
    **experiments.BLOCKS, **rival_tables.BLOCKS, **gpu_tables.BLOCKS,
}  # fmt: skip


def drawn(text: str) -> str:
    """The document with its tables as the records have them."""
    return _BLOCK.sub(lambda m: f"<!-- drawn: {m[1]} -->\n{BLOCKS[m[1]]()}\n<!-- end -->", text)


def undrawn() -> set[str]:
    """Names of the pages with a table row that holds an interval and that no record draws."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return {page.name for page in pages if _MEASURED.search(_BLOCK.sub("", page.read_text(encoding="utf-8")))}


def picture(run: Run, cost: str, quality: str, path: Path) -> Path:
    points = next(points for c, q, points in run.fronts() if (c, q) == (cost, quality))
    with mpl.rc_context(look.STYLE):
        return write_png(pareto_plot.pareto_figure(run, cost, quality, points), path, dpi=pareto_plot.DPI)


def schemas() -> dict[Path, str]:
    """The JSON schemas of what the command line writes, by file."""
    models = {"verdict": Verdict, "compare": Comparison}
    return {
        ROOT / "docs" / "schemas" / f"{name}.json": json.dumps(model.model_json_schema(), indent=1) + "\n"
        for name, model in models.items()
    }


def documents() -> list[Path]:
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path for path in found if _BLOCK.search(path.read_text(encoding="utf-8"))]


def main() -> None:
    for path in documents():
        text = path.read_text(encoding="utf-8")
        if drawn(text) != text:
            if "--check" in sys.argv:
                sys.exit(f"{path.relative_to(ROOT)} is not what its records say: python docs/draw.py")
            path.write_text(drawn(text), encoding="utf-8")
            print(f"written to {path.relative_to(ROOT)}")
    for path, text in schemas().items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            if "--check" in sys.argv:
                sys.exit(f"{path.relative_to(ROOT)} is not the model's schema: python docs/draw.py")
            path.write_text(text, encoding="utf-8")
            print(f"written to {path.relative_to(ROOT)}")
    if "--check" not in sys.argv:
        of_emoji = experiments.table1_run("emoji", of_one_seed=True)
        for run, judge, path in (
            (open_run(DEFAULT), "shapes-judge", "pareto.png"),
            (experiments.table1_run(of_one_seed=True), "shapes-judge", "table1/gmacs_vs_truth.png"),
            (of_emoji, "efficientnet-lite0", "table1/emoji_gmacs_vs_truth.png"),
        ):
            print(f"written to {picture(run, 'gmacs', f'truth[{judge}]', ROOT / 'docs' / path).name}")


if __name__ == "__main__":
    main()
