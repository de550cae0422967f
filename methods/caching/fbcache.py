"""First-Block-Cache: the first block's update tells whether the other blocks run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from diffusers import FirstBlockCacheConfig, apply_first_block_cache
from pydantic import Field
from torch import Tensor, nn

from harness.backbones.base import Backbone
from harness.errors import UserError
from harness.method import MethodSettings
from harness.spec import Call, State
from methods.caching.hooks import Cache, fresh_hooks, parts_of


class FBCacheSettings(MethodSettings):
    threshold: float = Field(
        0.15,
        ge=0.0,
        le=1.0,
        description="the blocks after the first are skipped where the first one's update differs from the last "
        "computed step's by at most this, relative to its mean absolute value",
    )


class FBCache(Cache):
    """First-Block-Cache: what the first block adds tells whether the other blocks run. If it has hardly changed since
    they last did, their joint update of then is added again. diffusers decides once for a whole batch, so that here
    images are made one at a time, each with decisions of its own, and every one is costed. Under a method that sends
    other tokens through the first block at every step, its update changes too much for anything to be skipped: such a
    point fails as a silent no-op."""

    name = "fbcache"
    Settings = FBCacheSettings
    source = "Cheng, 2024, ParaAttention's First Block Cache, after Liu et al., 2024, TeaCache"
    reuses = "blocks"
    copes = frozenset({"branches", "late start"})
    adaptive = True
    strength = "threshold"
    sweep = (0.06, 0.1, 0.2)

    @contextmanager
    def attach(self, backbone: Backbone, state: State | None = None) -> Iterator[None]:
        settings: FBCacheSettings = self.settings  # type: ignore[assignment]
        if backbone.layers < 2:
            raise UserError("fbcache needs at least two blocks")

        def put_on() -> list[nn.Module]:
            apply_first_block_cache(backbone.transformer, FirstBlockCacheConfig(threshold=settings.threshold))
            return parts_of(backbone, "block")

        def idle(call: Call) -> Tensor:
            return call.run(call.x)

        # A joint family's last block may give no text, which diffusers would subtract from; under advice it does.
        with backbone.advise("block", idle, [backbone.layers - 1]), fresh_hooks(backbone, self.name, put_on):
            yield
