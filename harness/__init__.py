"""Compare methods that make Diffusion Transformers cheaper: quality against FLOPs, latency and memory.

`harness.run(methods=["diffcr", "tome"])` returns a table; `harness.apply(pipeline, "diffcr", ratio=0.2)` and
`harness.remove(pipeline)` put a method onto your own pipeline and take it back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness import own_packages
from harness.errors import UserError
from harness.registry import methods as methods
from harness.registry import metrics, tasks

own_packages.find_first()  # before anything of ours beside this package is imported

__version__ = "0.1.0"
__all__ = [
    "UserError", "applied", "apply", "attribute", "methods", "metrics", "open_run", "profile", "remove", "run", "tasks",
]  # fmt: skip

if TYPE_CHECKING:
    from harness.api import profile, run
    from harness.attribution import attribute
    from harness.user_pipeline import applied, apply, remove
    from results.run import open_run

_AT = {
    "run": "harness.api", "profile": "harness.api", "attribute": "harness.attribution", "open_run": "results.run",
    "apply": "harness.user_pipeline", "applied": "harness.user_pipeline", "remove": "harness.user_pipeline",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    # torch and diffusers load on first use, so that `--help` answers at once and `open_run` does without them
    if name in _AT:
        from importlib import import_module

        return getattr(import_module(_AT[name]), name)
    raise AttributeError(f"module 'harness' has no attribute {name!r}")
