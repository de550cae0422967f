"""Figures to files."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from results.files import write_atomic


def write_png(figure: Figure, path: str | Path, dpi: int = 120) -> Path:
    """Write the figure and return its path; the same figure gives the same bytes."""
    figure.set_dpi(dpi)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return write_atomic(path, buffer.getvalue())
