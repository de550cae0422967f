"""How the weights of `shapes-inpaint` are made: the DiT, VAE and text encoder of `shapes`, and an encoder from scratch.

`python -m harness train shapes-inpaint` runs it; it resumes from its last checkpoint. Only scenes of the "train" split
are seen. One network serves every strategy, so it trains on all: half of the batches generate the tokens under the
mask ("lazy"), a quarter the whole canvas, a quarter a square around the mask that sees nothing outside ("crop").
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import AdamW

from harness.models.inpainting.lazy_pipeline import LazyInpaintPipeline
from harness.models.inpainting.regions import Strategy
from harness.models.lazy import LazyEncoder, LazyPixArt, at, pack, pick
from harness.training.loop import Losses, TrainingPlan, train
from harness.training.settings import same
from harness.zoo.shapes import networks, scene
from harness.zoo.shapes.recipe import Count
from harness.zoo.shapes_inpaint.data import pairs, regions

TURNS: tuple[Strategy, ...] = ("lazy", "whole", "lazy", "crop")
SEEN = 0.25  # weight of the loss on tokens that are generated although they are seen


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """steps: optimizer steps. scenes: of the latent cache. batch: images per step. layers: of the encoder."""

    steps: Count = 1_500
    scenes: Count = 32_768
    batch: Count = 32
    layers: Count = 6


def make(recipe: Recipe, work: Path, out: Path, accelerator: Accelerator) -> None:
    """Train what is not finished and write the pipeline folder to `out`/pipeline. Raises UserError where `work` holds
    checkpoints of other settings."""
    from diffusers import PixArtSigmaPipeline

    same(work / "shapes-inpaint.json", asdict(recipe))
    base = Path(scene.__file__).parent / "weights" / "pipeline"
    start = PixArtSigmaPipeline.from_pretrained(base, local_files_only=True)
    facts = json.loads((base / "harness.json").read_text())
    vae, text = start.vae.to(accelerator.device), start.text_encoder.to(accelerator.device)
    cached = pairs(vae, recipe.scenes, work / f"pairs-{recipe.scenes}.safetensors")
    networks_ = train_lazy(recipe, start, cached, work, accelerator)
    LazyInpaintPipeline(
        start.tokenizer, text.cpu(), vae.cpu(), networks_.decoder.cpu(), start.scheduler, networks_.encoder.cpu()
    ).save_pretrained(out / "pipeline")
    for path in (out / "pipeline").glob("*/config.json"):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)  # where `shapes` lay on the machine that made it
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    facts |= {"inpaints": True, "fit": {"regions": 10}}  # as in the paper's inpainting
    facts["call"] = {k: facts["call"][k] for k in ("clean_caption", "max_sequence_length")}
    (out / "pipeline" / "harness.json").write_text(json.dumps(facts, indent=2) + "\n")


class Lazy(nn.Module):
    """Encoder and decoder in one module, for the training loop."""

    def __init__(self, transformer: nn.Module, layers: int) -> None:
        super().__init__()
        config = transformer.config
        width = config.num_attention_heads * config.attention_head_dim
        shared = {
            name: config[name]
            for name in (
                "num_attention_heads",
                "attention_head_dim",
                "sample_size",
                "patch_size",
                "interpolation_scale",
            )
        }
        shared["interpolation_scale"] = shared["interpolation_scale"] or 1.0
        self.encoder = LazyEncoder(**shared, in_channels=config.in_channels + 1, num_layers=layers)
        names = ("in_channels", "out_channels", "num_layers", "cross_attention_dim", "caption_channels")
        self.decoder = LazyPixArt(**shared, **{name: config[name] for name in names}, context_channels=width)
        self.decoder.load_state_dict(transformer.state_dict(), strict=False)

    def forward(
        self, seen: Tensor, places: Tensor, noised: Tensor, index: Tensor, states: Tensor, mask: Tensor, t: Tensor
    ) -> Tensor:
        context = at(self.encoder(seen, places), places, index)
        return self.decoder(noised, states, t, index, context, encoder_attention_mask=mask)[0]


def train_lazy(recipe: Recipe, start: object, cached: dict[str, Tensor], work: Path, accelerator: Accelerator) -> Lazy:
    torch.manual_seed(0)
    module = Lazy(start.transformer, recipe.layers)  # type: ignore[attr-defined]
    text, device = start.text_encoder, accelerator.device  # type: ignore[attr-defined]
    tokenizer = start.tokenizer  # type: ignore[attr-defined]

    def tokens(captions: list[str]) -> tuple[Tensor, Tensor]:
        out = tokenizer(
            captions, padding="max_length", max_length=networks.TEXT_TOKENS, truncation=True, return_tensors="pt"
        )
        return out.input_ids.to(device), out.attention_mask.to(device)

    empty = tokens([""])

    def loss(net: nn.Module, step: int, generator: torch.Generator) -> Losses:
        # Neighbours in the number of masked tokens: a batch needs one number, and the fewest extra tokens.
        span = min(16 * recipe.batch, recipe.scenes)
        first = int(torch.randint(recipe.scenes - span + 1, (1,), generator=generator, device=device))
        rows = first + torch.randperm(span, generator=generator, device=device)[: recipe.batch].cpu()
        clean, known, share = (cached[name][rows].to(device).float() for name in ("clean", "known", "share"))
        masked = share > 0  # (B, h, w)
        seen, index = regions(TURNS[step % len(TURNS)], masked)
        captions = scene.sample("train", cached["scene"][rows].tolist()).captions()
        ids, mask = tokens(captions)
        dropped = torch.rand(len(rows), generator=generator, device=device) < 0.1  # for classifier-free guidance
        ids, mask = torch.where(dropped[:, None], empty[0], ids), torch.where(dropped[:, None], empty[1], mask)
        with torch.no_grad():
            states = text(ids, attention_mask=mask)[0]
        sigma = torch.randn(len(rows), generator=generator, device=device).sigmoid()
        clean = pick(pack(clean, 1), index)  # (B, K, C)
        noise = torch.randn(clean.shape, generator=generator, device=device)
        noised = torch.lerp(clean, noise, sigma[:, None, None])
        canvas = pick(pack(torch.cat([known, share[:, None]], 1), 1), seen)  # (B, M, C + 1)
        prediction = net(canvas, seen, noised, index, states, mask, sigma * 1000)
        error = (prediction - (noise - clean)).square().mean(-1)  # (B, K)
        hidden = masked.flatten(1).gather(1, index)
        weight = torch.where(hidden, 1.0, SEEN)
        return {
            "loss": (weight * error).sum() / weight.sum(),
            "hidden": error[hidden].mean(),
            "tokens": torch.tensor(float(index.shape[1])),
        }

    plan = TrainingPlan(steps=recipe.steps, average=0.998, seed=6, decay=0.5, warmup=100)
    old = [p for name, p in module.named_parameters() if name.startswith("decoder") and "context" not in name]
    new = [p for name, p in module.named_parameters() if not name.startswith("decoder") or "context" in name]
    optimizer = AdamW(
        [{"params": old, "lr": 7e-4}, {"params": new, "lr": 1.5e-3}], betas=(0.9, 0.98), weight_decay=0.01
    )
    train("lazy", module, loss, [optimizer], plan, work, accelerator=accelerator)
    return module.eval().requires_grad_(False)
