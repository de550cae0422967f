"""A method on a pipeline of the user's own: `harness.apply`, `harness.remove`, `harness.applied`."""

from __future__ import annotations

import logging
import re
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import config
from harness.attach import attached, check
from harness.backbones.following import track_sampler
from harness.errors import UserError
from harness.leftovers import Snapshot
from harness.method import Method
from harness.models import adapters
from harness.models.loading import digest_of, wrap
from harness.models.model import Model
from harness.spec import State

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Carried:
    """A method on a pipeline. take_off: called by `remove`, or when the pipeline is dropped. before: the denoiser."""

    method: str
    take_off: weakref.finalize[Any, Any]
    denoiser: Mapping[str, Any]
    before: Snapshot


_ON: weakref.WeakKeyDictionary[Any, _Carried] = weakref.WeakKeyDictionary()


def apply(pipeline: Any, method: str, *, adapter: str | Path | None = None, **settings: Any) -> None:
    """Make a diffusers pipeline cheaper, in place: `harness.apply(pipeline, "diffcr", ratio=0.2)`.

    Adapter states are looked for beside the pipeline's own folder, or in the folder `adapter`. `remove` restores
    the pipeline exactly. Raises UserError for an unknown method or setting, a pipeline that no backbone serves, a
    missing adapter, a pipeline that carries a method already, or one that shares its denoiser or its sampler with
    such a pipeline (one without a method should not share them either: it would run under the other's).
    """
    if not hasattr(pipeline, "config"):
        raise UserError(
            f"expected a diffusers pipeline, got a {type(pipeline).__name__}; load it first, with "
            "DiffusionPipeline.from_pretrained"
        )
    if pipeline in _ON:
        raise UserError("this pipeline carries a method already; call harness.remove(pipeline) first")
    for other, carried in _ON.items():
        for part in ("transformer", "scheduler"):
            if (own := getattr(pipeline, part, None)) is not None and own is getattr(other, part, None):
                raise UserError(
                    f"this pipeline shares its {part} with one that carries {carried.method!r}, which would act on "
                    f"both and not come off exactly: remove that one first, or give this one a {part} of its own"
                )
    chosen = config.method_of(method, settings)
    model = _wrapped(pipeline, adapter)
    if refusal := check(chosen, model.family):
        raise UserError(f"method {method!r} cannot run on this pipeline: {refusal}")
    state = _state(chosen, model)
    denoiser = {"transformer": pipeline.transformer}
    before = Snapshot.of(denoiser)
    with ExitStack() as stack:
        stack.enter_context(track_sampler(model.backbone, weakref.ref(pipeline)))
        stack.enter_context(attached(model.backbone, chosen, state))
        take_off = weakref.finalize(pipeline, stack.pop_all().close)
        take_off.atexit = False
        _ON[pipeline] = _Carried(method, take_off, denoiser, before)


def remove(pipeline: Any) -> None:
    """Take back what `apply` did; nothing happens where nothing was applied. Warns where the denoiser is not as it was:
    a method left something behind, or somebody else changed it meanwhile."""
    if (carried := _ON.pop(pipeline, None)) is None:
        return
    carried.take_off()
    if changes := carried.before.changes(carried.denoiser):
        warnings.warn(
            f"after {carried.method!r} was removed, the denoiser is not as it was before: {', '.join(changes)}; if "
            "that was not you, load the pipeline anew",
            stacklevel=2,
        )


@contextmanager
def applied(pipeline: Any, method: str, **settings: Any) -> Iterator[None]:
    """`apply` inside a `with` block."""
    apply(pipeline, method, **settings)
    try:
        yield
    finally:
        remove(pipeline)


def _wrapped(pipeline: Any, folder: str | Path | None) -> Model:
    """The pipeline with the adapter folders that belong to it."""
    home = _home(pipeline)
    if folder is not None and not Path(folder).is_dir():
        raise UserError(f"adapter folder {folder} does not exist; expected a folder of NAME.safetensors")
    places = [Path(folder)] if folder is not None else []
    if home:
        places += [Path(home) / "adapters", Path(home).parent.parent / "adapters"]
    return wrap(home or "pipeline", pipeline, adapters=tuple(place for place in places if place.is_dir()))


def _home(pipeline: Any) -> str:
    """Where it was loaded from: a folder, the name of a hub model, or "" for neither."""
    return str(getattr(pipeline, "name_or_path", None) or pipeline.config.get("_name_or_path") or "")


def _state(method: Method, model: Model) -> State | None:
    """The adapter states, of this pipeline's weights: of whichever variant of them, which a pipeline does not tell.
    Raises UserError."""
    if not adapters.needing(method):
        return None
    home = _home(model.pipeline)
    folder = Path(home)
    if not home or not folder.is_dir():
        _LOG.warning("the pipeline comes from no folder: whether the adapter was fitted on these weights is not known")
        return adapters.state_of(method, model)
    names = (re.fullmatch(r".+?\.([\w-]+)\.safetensors", path.name) for path in folder.glob("*/*.safetensors"))
    variants = sorted({found[1].partition("-0")[0] for found in names if found})  # a shard: fp16-00001-of-00002
    refused: UserError | None = None
    for variant in (None, *variants):
        model.digest = digest_of(folder, variant)
        try:
            return adapters.state_of(method, model)
        except UserError as error:
            refused = refused or error
    assert refused is not None
    raise refused
