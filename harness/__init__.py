"""Compare methods that make Diffusion Transformers cheaper: quality against FLOPs, latency and memory.

`harness.run(methods=["diffcr", "tome"])` returns a table; `harness.apply(pipeline, "diffcr", ratio=0.2)` and
`harness.remove(pipeline)` put a method onto your own pipeline and take it back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from harness.registry import methods as methods
from harness.registry import metrics, tasks

__version__ = "0.1.0"
__all__ = ["UserError", "applied", "apply", "methods", "metrics", "profile", "remove", "run", "tasks"]

if TYPE_CHECKING:
    from harness.api import applied, apply, remove, run
    from harness.profiling import profile


def __getattr__(name: str) -> Any:
    # torch and diffusers load on first use, so that `--help` answers at once
    if name in ("applied", "apply", "remove", "run"):
        from harness import api

        return getattr(api, name)
    if name == "profile":
        from harness.profiling import profile

        return profile
    raise AttributeError(f"module 'harness' has no attribute {name!r}")
