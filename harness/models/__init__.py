"""Loading: a name becomes a pipeline with its backbone, its defaults and its adapter states."""

from harness.models.loading import Model, load, names

__all__ = ["Model", "load", "names"]
