"""How the weights of `shapes` are made: VAE, text encoder, judge, DiT, in this order.

`python -m harness train shapes` runs it. Every stage resumes from its last checkpoint; a finished stage is
skipped. Only scenes of the "train" split are seen.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from accelerate import Accelerator
from torch import nn

from harness import checkpoints
from harness.training.settings import same
from harness.zoo.shapes import networks, scene
from harness.zoo.shapes.recipe import Recipe
from harness.zoo.shapes.stages.dit import train_dit
from harness.zoo.shapes.stages.judge import train_judge
from harness.zoo.shapes.stages.text import train_text
from harness.zoo.shapes.stages.vae import train_vae

GUIDANCE = 2.0  # CFG scale of the zoo model; the larger scales of photographic models overdrive these flat colours


def make(recipe: Recipe, work: Path, out: Path, accelerator: Accelerator) -> None:
    """Run every stage that is not finished and write the pipeline folder and the judge to `out`. Raises UserError where
    `work` holds checkpoints of other settings."""
    same(work / "shapes.json", asdict(recipe))
    vae = train_vae(recipe, work, accelerator)
    text = train_text(recipe, work, accelerator)
    judge = train_judge(recipe, vae, work, accelerator)
    transformer = train_dit(recipe, vae, text, work, accelerator)
    save(vae, text, transformer, judge, out)


def save(vae: nn.Module, text: nn.Module, transformer: nn.Module, judge: nn.Module, out: Path) -> None:
    """Write the pipeline folder to `out`/pipeline and the judge to `out`/judge.safetensors."""
    from diffusers import PixArtSigmaPipeline

    pipeline = PixArtSigmaPipeline(
        tokenizer=networks.tokenizer(),
        text_encoder=text.cpu(),
        vae=vae.cpu(),
        transformer=transformer.cpu(),
        scheduler=networks.scheduler(),
    )
    pipeline.save_pretrained(out / "pipeline")
    notes = {
        "scenes": "shapes",
        "judge": "shapes-judge",
        "defaults": {"steps": 20, "guidance": GUIDANCE},
        "call": {
            "height": scene.SIZE,
            "width": scene.SIZE,
            "clean_caption": False,
            "use_resolution_binning": False,
            "max_sequence_length": networks.TEXT_TOKENS,
        },
    }
    (out / "pipeline" / "harness.json").write_text(json.dumps(notes, indent=2) + "\n")
    halves = {name: tensor.half() for name, tensor in judge.state_dict().items()}
    checkpoints.save(out / "judge.safetensors", halves, {"extractor": "shapes-judge"})
