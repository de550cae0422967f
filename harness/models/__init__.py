"""Loading: a name becomes a pipeline with its backbone, its defaults and its adapter states."""

from harness.models.loading import load, names
from harness.models.model import Model

__all__ = ["Model", "load", "names"]
