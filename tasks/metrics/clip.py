"""CLIP (Radford et al., 2021) by transformers: unit embeddings of images and texts.

Weights come from a local folder or from the hub's local cache, as safetensors; nothing waits for a network.

Letters: N images or texts, D embedding width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from harness.errors import UserError
from harness.models.loading import digest_of
from tasks.metrics.inception import chunks

_BATCH = 32
WEIGHTS = (
    "Any CLIP that transformers saves as safetensors, named by `model`: a local folder, or a hub id that is in the "
    "local cache already (`hf download ID`). A repository that holds pytorch_model.bin alone has to be saved anew "
    "once, by `CLIPModel.from_pretrained(ID).save_pretrained(FOLDER)`, with the processor beside it."
)


class Clip:
    """A CLIP model with its processor, each loaded when it is first needed. processor: the folder of another one.

    Making one raises UserError where files are absent or damaged.
    """

    def __init__(self, model: str, processor: str | None = None) -> None:
        self.folder = folder_of(model)
        self.name = Path(model).name
        _weights(self.folder)
        self._processor = processor_in(self.folder if processor is None else folder_of(processor))

    @cached_property
    def digest(self) -> str:
        return digest_of(self.folder)

    @cached_property
    def network(self) -> Any:
        from transformers import CLIPModel  # slow to import
        from transformers.utils import logging

        logging.disable_progress_bar()
        return CLIPModel.from_pretrained(self.folder, use_safetensors=True, local_files_only=True).eval()

    @torch.no_grad()
    def images(self, images: Iterable[np.ndarray], device: torch.device) -> np.ndarray:
        """(N, D) of images (H, W, 3) uint8: the shorter side resized to the model's, the middle cut out."""
        parts = []
        for some in chunks(images, _BATCH):
            pixels = self._processor.image_processor(
                [torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in some],
                input_data_format="channels_first", return_tensors="pt",
            )["pixel_values"]  # fmt: skip
            parts.append(_unit(_pooled(self._on(device).get_image_features(pixels.to(device)))))
        self._off()
        return torch.cat(parts).double().numpy()

    @torch.no_grad()
    def texts(self, texts: Sequence[str], device: torch.device) -> np.ndarray:
        """(N, D) of texts, cut to the model's length (77 tokens)."""
        length = self.network.config.text_config.max_position_embeddings
        parts = []
        for start in range(0, len(texts), _BATCH):
            tokens = self._processor.tokenizer(
                list(texts[start : start + _BATCH]), padding=True, truncation=True, max_length=length,
                return_tensors="pt",
            ).to(device)  # fmt: skip
            states = self._on(device).get_text_features(tokens["input_ids"], attention_mask=tokens["attention_mask"])
            parts.append(_unit(_pooled(states)))
        self._off()
        return torch.cat(parts).double().numpy()

    def _on(self, device: torch.device) -> Any:
        return self.network.to(device)

    def _off(self) -> None:
        """Leave the device to what is measured there."""
        self.network.to("cpu")


@cache
def open_(model: str, processor: str | None = None) -> Clip:
    return Clip(model, processor)


@cache
def of_folder(clip: Clip, folder: Path, digest: str, device: torch.device) -> np.ndarray:
    """Embeddings (M, D) of a folder's images, computed once per process; digest: of its contents."""
    from tasks.metrics import references

    return clip.images(references.images(folder), device)


def folder_of(name: str) -> Path:
    """The folder of a local path or of a hub id that is in the local cache. Raises UserError."""
    if Path(name).is_dir():
        return Path(name)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"CLIP folder {name} does not exist; give a folder that holds the model and its processor")
    found: Any = None
    with suppress(ValueError):  # not even the form of a hub id
        found = try_to_load_from_cache(name, "config.json")
    if not isinstance(found, str):
        raise UserError(
            f"CLIP model {name!r} is neither a folder nor in the local hub cache; fetch it once with "
            f"`hf download {name}`, or give a folder"
        )
    return Path(found).parent


def _weights(folder: Path) -> None:
    """Raises UserError unless the folder holds a CLIP model's weights."""
    from transformers import AutoConfig

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"CLIP folder {folder} holds no *.safetensors; save it anew with CLIPModel.save_pretrained")
    try:
        kind = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
        for file in files:
            with safe_open(file, framework="pt"):
                pass
    except SafetensorError as error:
        raise UserError(f"a weights file of {folder} is damaged ({error}); restore the folder") from error
    except (OSError, ValueError) as error:
        text = (str(error).splitlines() or [""])[0]
        raise UserError(f"CLIP folder {folder} cannot be loaded: {text}") from error
    if kind != "clip":
        raise UserError(f"{folder} holds a model of type {kind!r}; expected 'clip'")


def processor_in(folder: Path) -> Any:
    """Raises UserError where the tokenizer or the image processor is absent."""
    from transformers import CLIPProcessor

    held = {file.name for file in folder.iterdir()}
    if not ("tokenizer.json" in held or {"vocab.json", "merges.txt"} <= held):  # an empty one would be made up
        raise UserError(f"CLIP folder {folder} has no tokenizer: expected tokenizer.json, or vocab.json and merges.txt")
    if not held & {"preprocessor_config.json", "processor_config.json"}:
        raise UserError(f"CLIP folder {folder} has no image processor: expected preprocessor_config.json")
    try:
        return CLIPProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"the processor in CLIP folder {folder} cannot be loaded: {(str(error).splitlines() or [''])[0]}"
        ) from error


def _pooled(output: Any) -> Tensor:
    """Newer versions of transformers wrap the embeddings."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _unit(vectors: Tensor) -> Tensor:
    return nn.functional.normalize(vectors.float(), dim=-1).cpu()


def print_of(clip: Clip) -> str:
    """What a fingerprint says of a model: its digest and its processing of images."""
    from transformers import __version__

    shown = hashlib.sha256(clip._processor.image_processor.to_json_string().encode()).hexdigest()
    return f"{clip.name} {clip.digest[:12]}, processing {shown[:12]}, transformers {__version__}"
