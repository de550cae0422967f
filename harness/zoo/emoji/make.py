"""How weights of `emoji` are made: the VAE, then the text encoder and the DiT together.

`python -m harness train emoji --data FOLDER` runs it on what `python -m harness data emoji FOLDER` has built. Every
stage resumes from its last checkpoint; a finished stage is skipped. Only pictures of the "train" split are seen.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from harness.errors import UserError
from harness.models.loading import digest_of
from harness.models.pretrained import pipeline
from harness.training.settings import same
from harness.zoo.emoji import networks, pictures
from harness.zoo.emoji.held_out import SCENES
from harness.zoo.emoji.recipe import Recipe
from harness.zoo.emoji.stages.batches import Images
from harness.zoo.emoji.stages.dit import Student, train_dit
from harness.zoo.emoji.stages.vae import train_vae

PRECISION = "bf16"  # of the forward passes on a GPU
NOTES = {
    "scenes": SCENES,
    "features": "efficientnet-lite0",
    "defaults": {"steps": 16, "guidance": 2.5},
    "call": {
        "height": pictures.SIZE,
        "width": pictures.SIZE,
        "clean_caption": False,
        "use_resolution_binning": False,
        "max_sequence_length": networks.TEXT_TOKENS,
    },
}


def make(
    recipe: Recipe, work: Path, out: Path, accelerator: Accelerator, *, data: Path | None = None,
    start: Path | None = None,
) -> None:  # fmt: skip
    """Run every stage that is not finished and write the pipeline folder, in float16, to `out`/pipeline. Checkpoints go
    to `work`/emoji.

    data: a folder that holds pictures.bin and pictures.json. start: a pipeline folder whose text encoder and DiT are
    trained further, and whose VAE is kept. Raises UserError where the data are missing or changed, and where `work`
    holds checkpoints of other settings or data.
    """
    found = check(data, start)
    work = work / "emoji"  # other zoo models' stages have the same names
    name = "dit" if start is None else f"dit-from-{digest_of(start)[:8]}"
    asked = {word: value for word, value in asdict(recipe).items() if word != "save_seconds"}
    same(work / f"{name}.json", asked | {"pictures": hashlib.sha256(found.data).hexdigest()[:12]})
    images = Images(found, accelerator.device)
    if start is not None:
        given = _given(start)
        vae, tokenizer = given.vae, given.tokenizer
        student = Student(given.text_encoder, given.transformer)
        student.requires_grad_(True)
        vae = vae.eval().requires_grad_(False)
    else:
        vae, tokenizer = train_vae(recipe, images, work, accelerator), networks.tokenizer(found.words)
        torch.manual_seed(0)
        encoder = networks.text_encoder(len(tokenizer), recipe.width)
        student = Student(encoder, networks.transformer(recipe.width, recipe.layers))
    train_dit(name, recipe, student, vae, tokenizer, images, work, accelerator)
    save(student, vae, tokenizer, out)


def check(data: Path | None, start: Path | None) -> pictures.Pictures:
    """The pictures to train on. Raises UserError where they are missing or changed, and for a `start` that is none."""
    if data is None:
        raise UserError(
            "train emoji needs its pictures: give --data FOLDER; `python -m harness data emoji FOLDER` builds it"
        )
    found = pictures.load(data)
    if not found.of("train"):
        raise UserError(f"{data} holds no training pictures (split train); copy the folder again")
    if start is not None and not (start / "model_index.json").is_file():
        raise UserError(f"{start} is no pipeline folder to train from: it holds no model_index.json")
    return found


def _given(folder: Path) -> Any:
    """The pipeline to start from. Raises UserError."""
    given = pipeline(folder, "cpu", torch.float32)
    channels = given.transformer.config.in_channels
    if type(given).__name__ != "PixArtSigmaPipeline" or given.vae.config.latent_channels != channels:
        raise UserError(f"{folder} holds a {type(given).__name__}; train emoji goes on from a PixArtSigmaPipeline")
    return given


def save(student: Student, vae: Any, tokenizer: Any, out: Path) -> None:
    """Write the pipeline folder to `out`/pipeline, in place of one that is there once all of it is written: it may be
    the one that this training started from."""
    from diffusers import PixArtSigmaPipeline

    part, old, folder = out / ".pipeline.part", out / ".pipeline.old", out / "pipeline"
    shutil.rmtree(part, ignore_errors=True)
    tokenizer.backend_tokenizer.no_padding()  # its calls leave theirs in it, and the folder's digest tells
    tokenizer.backend_tokenizer.no_truncation()
    PixArtSigmaPipeline(
        tokenizer=tokenizer,
        text_encoder=student.text.cpu().half(),
        vae=vae.cpu().half(),
        transformer=student.dit.cpu().half(),
        scheduler=networks.scheduler(),
    ).save_pretrained(part)
    for path in part.glob("*/config.json"):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)  # where the weights lay on the machine that made them
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (part / "harness.json").write_text(json.dumps(NOTES, indent=2) + "\n")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
