"""How methods look in plots: colours, markers, lines and type, the same in every one."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from results.analysis.point_names import variants
from results.tables.table import DENSE, Table

# Okabe & Ito's palette for colour-blind readers, with a violet for its yellow (too light on white); markers tell
# more methods apart than there are colours, and all of them in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#5B3A8C")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
INK, FAINT = "#222222", "#8a8a8a"
FRONT: dict[str, Any] = {"color": "#6b6b6b", "linewidth": 1.8}
LEVEL: dict[str, Any] = {"color": FAINT, "linewidth": 1, "linestyle": (0, (4, 3))}

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "grid.color": "#e9e9e9",
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.hashsalt": "results",  # the same records give the same file
    "text.parse_math": False,  # a "$" in a name is a dollar
}


@dataclass(frozen=True, kw_only=True)
class Look:
    """The colour and the marker of one method or variant, the same in every plot."""

    colour: str
    marker: str


def looks(table: Table) -> dict[str, Look]:
    """The look of every method (or variant of one), in the order of first appearance; dense is a black star."""
    named = variants(table.records, seeds=False, strengths=False)
    names = [name for name in dict.fromkeys(named.values()) if name != DENSE]
    pairs = islice(zip(cycle(COLOURS), cycle(MARKERS), strict=False), len(names))  # 56 pairs before one recurs
    chosen = {name: Look(colour=c, marker=m) for name, (c, m) in zip(names, pairs, strict=True)}
    return chosen | {DENSE: Look(colour="black", marker="*")}


def marker(look: Look, filled: bool = True) -> dict[str, Any]:
    return {
        "linestyle": "none",
        "marker": look.marker,
        "markersize": 13 if look.marker == "*" else 7.5,
        "markerfacecolor": look.colour if filled else "white",
        "markeredgecolor": look.colour,
        "markeredgewidth": 1.4,
    }
