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


def write_png(figure: Figure, path: str | Path, dpi: int = 120) -> Path:
    """Write the figure and return its path; the same figure gives the same bytes."""
    figure.set_dpi(dpi)
    buffer = io.BytesIO()
    with any_letters():
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return write_atomic(path, buffer.getvalue())
