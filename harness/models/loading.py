"""Models by name: `shapes` and other zoo models, a local folder that diffusers' `from_pretrained` loads, or a
hub id.

A model folder may hold `harness.json` beside `model_index.json`: defaults of the sampler and the pipeline call, and
what the tasks may use (`judge`, `prompts`). Adapter states lie in `adapters/` beside it or in folders that the user
names. Weights load from safetensors only, and nothing here waits for a network, unless HF_HUB_OFFLINE=0 is set.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from harness import text
from harness.backbones.base import Backbone
from harness.errors import UserError, unknown
from harness.models import hub, notes, pretrained
from harness.models.model import Model
from harness.registry import backbones
from harness.sweep import META

_OLD = {"ada_norm_zero": "DiTTransformer2DModel", "ada_norm_single": "PixArtTransformer2DModel"}
_ZOO = Path(__file__).resolve().parent.parent / "zoo"
RANDOM = "random:"  # before the name of an architecture
KINDS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def names() -> list[str]:
    """Zoo models whose weights are here."""
    found = _ZOO.glob("*/weights/pipeline/model_index.json")
    return sorted(p.parent.parent.parent.name.replace("_", "-") for p in found)


def folder_of(name: str, revision: str | None = None, variant: str | None = None) -> Path:
    """The pipeline folder of a zoo name, a local path or a hub id. Raises UserError."""
    if not name:
        raise UserError("this task has no model of its own: give --model, a pipeline folder or a hub id")
    if name in names():
        return _ZOO / name.replace("-", "_") / "weights" / "pipeline"
    if name.startswith(RANDOM):
        raise UserError(
            f"model {name!r} has random weights, which serve cost alone: use `python -m harness profile --model {name}`"
        )
    path = Path(name)
    if not path.exists() and hub.is_id(name):
        path = hub.snapshot(name, revision, variant)
    if not path.exists():
        if os.sep in name or name.startswith("."):
            raise UserError(f"model folder {name} does not exist; expected a folder that holds model_index.json")
        raise unknown("model", name, [*names(), "FOLDER (a local diffusers pipeline)", "OWNER/NAME (on the hub)"])
    if not (path / "model_index.json").is_file():
        raise UserError(
            f"model folder {name} is not a diffusers pipeline: it holds no model_index.json; save one with "
            "pipeline.save_pretrained(folder)"
        )
    return path


def checked(device: str, dtype: str) -> torch.dtype:
    """The precision of that name. Raises UserError for one that is unknown, and for a device that is not here."""
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda", META) or (kind != "cuda" and number) or not (number or "0").isdecimal():
        raise UserError(f"unknown device {device!r}: expected cpu, cuda or cuda:N (for profile, meta too)")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {device!r} was asked for, but this machine has no CUDA device; use --device cpu")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device {device!r} was asked for, but this machine has {torch.cuda.device_count()} CUDA devices"
        )
    if dtype not in KINDS:
        raise unknown("dtype", dtype, KINDS)
    return KINDS[dtype]


def claim(device: str) -> None:
    """Make a CUDA device of a number this process's own: kernels, streams and libraries that name none mean it."""
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)


def load(
    name: str,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    adapters: tuple[Path, ...] = (),
    variant: str | None = None,
    revision: str | None = None,
    digest: str | None = None,
) -> Model:
    """A model on a device.

    variant: of the weights ("fp16" loads files named so, where a part of the pipeline has any). revision: branch, tag
    or commit of a hub model. digest: of its files, where it is known already. Raises UserError for a name, folder,
    family, dtype or device that is no good.
    """
    folder = folder_of(name, revision, variant)
    if revision and (name in names() or Path(name).exists()):
        raise UserError(f"--revision is for models on the hub, and {name} is a local one; leave it out")
    if variant and not any(folder.rglob(f"*.{variant}*.safetensors")):
        raise UserError(f"model {name!r} has no weights of variant {variant!r}; leave --variant out")
    kind = checked(device, dtype)
    claim(device)
    parts = _read_json(folder / "model_index.json")
    places = (*adapters, folder / "adapters", folder.parent.parent / "adapters")
    return Model(
        name=name,
        open=lambda: pretrained.pipeline(folder, device, kind, variant),
        family=family_of(_transformer_of(folder, parts)),
        digest=digest_of(folder, variant) if digest is None else digest,
        scheduler=_class_of(parts, "scheduler"),
        kind=str(parts.get("_class_name", "")),
        labels=_labels(parts.get("id2label"), folder),
        device=torch.device(device),
        facts=notes.read(folder / "harness.json"),
        adapters=places,
    )


def _read_json(path: Path) -> dict[str, Any]:
    found = text.json_of(text.read(path, "the file"), str(path))
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no JSON object; restore the folder")
    return found


def _labels(found: object, folder: Path) -> dict[int, str]:
    try:
        return {int(label): str(name) for label, name in dict(found or {}).items()}  # type: ignore[call-overload]
    except (ValueError, TypeError) as error:
        raise UserError(
            f"id2label in {folder / 'model_index.json'} holds no names by number; restore the folder"
        ) from error


def _class_of(index: dict[str, Any], part: str) -> str:
    """The class name that a model_index.json gives for a part of the pipeline."""
    entry = index.get(part)
    return str(entry[1]) if isinstance(entry, list) and len(entry) == 2 else ""


def _transformer_of(folder: Path, index: dict[str, Any]) -> str:
    """The class name of the denoiser; older folders say Transformer2DModel, and its config which one that is today."""
    kind = _class_of(index, "transformer")
    if kind == "Transformer2DModel":
        norm = _read_json(folder / "transformer" / "config.json").get("norm_type")
        return _OLD.get(str(norm), kind)
    return kind


def wrap(name: str, pipeline: Any, digest: str = "", adapters: tuple[Path, ...] = ()) -> Model:
    """A pipeline that is loaded already. Raises UserError for a family that no backbone serves."""
    transformer = getattr(pipeline, "transformer", None)
    if transformer is None:
        raise UserError(f"{type(pipeline).__name__} has no transformer, so no method can make it cheaper")
    family, kind = family_of(type(transformer).__name__), type(pipeline).__name__
    return Model(name, lambda: pipeline, family, digest, kind=kind, device=transformer.device, adapters=adapters)


def family_of(kind: str) -> type[Backbone]:
    """The backbone adapter that serves a transformer class."""
    served: list[str] = []
    for name in backbones:
        family = backbones.get(name)
        if kind in family.classes:
            return family
        served += family.classes
    raise UserError(
        f"no backbone serves {kind or 'a pipeline without a transformer'}; served: {', '.join(sorted(served))}. To add "
        "one, write an adapter and register it in the entry-point group harness.backbones: see docs/backbones.md"
    )


def digest_of(folder: Path, variant: str | None = None) -> str:
    """sha256 over names and contents of what the pipeline loads, and the variant."""
    total = hashlib.sha256(f"variant {variant}".encode() if variant else b"")
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if (
            path.is_file()
            and inside.parts[0] != "adapters"
            and path.suffix in (".safetensors", ".json", ".model", ".txt")
            and (len(inside.parts) > 1 or path.suffix != ".safetensors")  # single-file copies of the whole model
        ):
            total.update(str(inside.as_posix()).encode() + b"\0")
            total.update(_sha256(path))
    return total.hexdigest()


def _sha256(path: Path) -> bytes:
    """Of a file; a large one in the hub's cache is a link to a file that is named so."""
    name = path.resolve().name
    if path.is_symlink() and len(name) == 64 and path.resolve().parent.name == "blobs":
        return bytes.fromhex(name)
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").digest()
