"""The terminal that tables are printed to."""

from __future__ import annotations

import os
import sys

from rich.console import Console

_ELSEWHERE = 120  # columns of a file or a pipe


def tables() -> Console:
    """Standard output, as wide as the terminal or COLUMNS say."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if known else _ELSEWHERE)
