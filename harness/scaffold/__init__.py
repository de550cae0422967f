"""A first file of one's own: `python -m harness new`."""

from harness.scaffold.new import KINDS, Made, new

__all__ = ["KINDS", "Made", "new"]
