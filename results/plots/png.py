"""Figures to files."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from results.files import write_atomic

NO_MATH: dict[Any, Any] = {"text.parse_math": False}
"""A "$" in a name is a dollar."""


@contextmanager
def any_letters() -> Iterator[None]:
    """A letter that the font lacks, such as an emoji in a name, is drawn as a box, without a warning for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield


def write_png(figure: Figure, path: str | Path, dpi: int = 120, *, around: bool = False) -> Path:
    """Write the figure and return its path; the same figure gives the same bytes. around: as large as what is drawn,
    where labels may reach beyond the figure."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    box: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.1} if around else {}
    with any_letters():
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None}, **box)
    return write_atomic(path, buffer.getvalue())
