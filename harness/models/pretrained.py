"""A pipeline folder becomes a pipeline, part by part, so that weights which do not fit their config are told."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from harness.errors import UserError


def pipeline(folder: Path, device: str, dtype: torch.dtype, variant: str | None = None) -> Any:
    """The pipeline on its device. Raises UserError for weights that are damaged, missing or do not fit."""
    from diffusers import DiffusionPipeline  # slow to import, and a finished sweep does not need it
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logs in (diffusers_logging, transformers_logging):
        logs.disable_progress_bar()
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8-sig"))
    kind: Any = DiffusionPipeline
    if index.get("_class_name") == "LazyInpaintPipeline":
        from harness.models.inpainting.lazy_pipeline import LazyInpaintPipeline as kind  # type: ignore[no-redef]
    options = {"dtype": dtype, "use_safetensors": True, "local_files_only": True}
    levels = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()  # what they report on loading is checked and told here
    transformers_logging.set_verbosity_error()
    try:
        parts = {name: _part(folder / name, *entry, variant, options) for name, entry in _modules(index).items()}
        pipeline = kind.from_pretrained(folder, **options, **parts)
    except SafetensorError as error:
        raise UserError(f"a weights file of {folder} is damaged ({error}); restore the folder") from error
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError) as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"model folder {folder} cannot be loaded: {text}") from error
    finally:
        diffusers_logging.set_verbosity(levels[0])
        transformers_logging.set_verbosity(levels[1])
    pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _modules(index: dict[str, Any]) -> dict[str, tuple[Any]]:
    """The networks among a pipeline's parts, by name; other parts load with the pipeline."""
    found = {}
    for name, entry in index.items():
        if not isinstance(entry, list) or len(entry) != 2 or entry[0] not in ("diffusers", "transformers"):
            continue
        cls = getattr(importlib.import_module(entry[0]), str(entry[1]), None)
        if isinstance(cls, type) and issubclass(cls, torch.nn.Module):
            found[name] = (cls,)
    return found


def _part(folder: Path, cls: Any, variant: str | None, options: dict[str, Any]) -> Any:
    """One network. Raises UserError where weights are missing, left over or of other shapes than its config says."""
    own = variant if variant and any(folder.glob(f"*.{variant}*.safetensors")) else None
    module, loading_info = cls.from_pretrained(folder, variant=own, output_loading_info=True, **options)
    problems = []
    for what, name in (("missing_keys", "lacks"), ("unexpected_keys", "has, but should not have,")):
        if keys := sorted(loading_info.get(what) or ()):
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            problems.append(f"{name} {keys[0]}{more}")
    if loading_info.get("mismatched_keys"):
        problems.append(f"has other shapes than its config: {sorted(map(str, loading_info['mismatched_keys']))[0]}")
    if loading_info.get("error_msgs"):
        problems.append(str(loading_info["error_msgs"]).splitlines()[0])
    if problems:
        raise UserError(
            f"the weights in {folder} do not fit its config.json: the file {'; '.join(problems)}; restore the folder"
        )
    return module
