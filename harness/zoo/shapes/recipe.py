"""How the weights of `shapes` are made: VAE, text encoder, judge, DiT, in this order.

`python -m harness train shapes` runs it. Every stage resumes from its last checkpoint; a finished stage is
skipped. Only scenes of the "train" split are seen; the report at the end reads the "evaluation" split.

Two things make the DiT learn in hours on two cores: it first trains on 2 x 2 pooled latents (64 tokens instead of
256), and beside the rectified-flow loss a linear head reads the scene's label map off the middle block (the idea of
representation alignment, REPA, Yu et al. 2024, with labels that the renderer knows instead of another network's
features). The head is thrown away afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import AdamW

from harness.training import checkpoints
from harness.training.loop import Losses, Plan, train
from harness.zoo.shapes import judge as judging
from harness.zoo.shapes import networks, scene

GUIDANCE = 2.0  # CFG scale of the zoo model; the larger scales of photographic models overdrive these flat colours


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Lengths of the stages, in steps (and scenes for the latent cache)."""

    vae_steps: int = 1_200
    text_steps: int = 900
    judge_steps: int = 600
    scenes: int = 32_768
    pooled_steps: int = 900
    steps: int = 1_100
    batch: int = 32
    width: int = 96
    layers: int = 8
    heads: int = 3


def make(recipe: Recipe, work: Path, out: Path, accelerator: Accelerator) -> None:
    """Run every stage that is not finished and write the pipeline folder and the judge to `out`."""
    vae = train_vae(recipe, work, accelerator)
    text = train_text(recipe, work, accelerator)
    judge = train_judge(recipe, vae, work, accelerator)
    transformer = train_dit(recipe, vae, text, work, accelerator)
    save(vae, text, transformer, judge, out)


def _batch(step: int, size: int) -> range:
    return range(step * size, (step + 1) * size)


def train_vae(recipe: Recipe, work: Path, accelerator: Accelerator) -> nn.Module:
    torch.manual_seed(0)
    vae = networks.vae()

    def loss(module: nn.Module, step: int, generator: torch.Generator) -> Losses:
        images, coverage = scene.render(scene.sample("train", _batch(step, recipe.batch // 2)))
        x = (images.to(accelerator.device) * 2 - 1).to(memory_format=torch.channels_last)
        posterior = module.encode(x).latent_dist
        decoded = module.decode(posterior.sample(generator)).sample
        weight = 1 + 5 * coverage.to(x.device)[:, None]  # objects are small and matter most
        error = (weight * (decoded - x).abs()).mean()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return {"loss": error + 3e-4 * kl, "l1": (decoded - x).abs().mean(), "kl": kl}

    vae = vae.to(memory_format=torch.channels_last)
    plan = Plan(steps=recipe.vae_steps, average=0.995, seed=1)
    optimizer = AdamW(vae.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.0)
    vae = train("vae", vae, loss, [optimizer], plan, work, accelerator=accelerator)
    vae = vae.to(memory_format=torch.contiguous_format).eval().requires_grad_(False)
    with torch.no_grad():
        images, _ = scene.render(scene.sample("train", range(512)))
        latents = torch.cat([vae.encode(x.to(accelerator.device) * 2 - 1).latent_dist.mode() for x in images.split(64)])
        centre, spread = float(latents.mean()), float(latents.std())
    vae.register_to_config(scaling_factor=1 / spread, shift_factor=None)
    accelerator.print(f"vae: latent mean {centre:.3f}, std {spread:.3f}")
    return vae


class _TextReader(nn.Module):
    """The text encoder with one learned query per quadrant and one for the background."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = networks.text_encoder()
        self.queries = nn.Parameter(torch.randn(5, networks.TEXT_WIDTH) * 0.1)
        self.object_heads = nn.ModuleDict(
            {k: nn.Linear(networks.TEXT_WIDTH, n) for k, n in judging.OBJECT_HEADS.items()}
        )
        self.background_heads = nn.ModuleDict(
            {k: nn.Linear(networks.TEXT_WIDTH, n) for k, n in judging.BACKGROUND_HEADS.items()}
        )

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        states = self.encoder(ids, attention_mask=mask)[0]  # (B, L, D)
        attention = (self.queries @ states.transpose(1, 2)).masked_fill(mask[:, None] == 0, -1e9).softmax(-1)
        read = attention @ states  # (B, 5, D)
        logits = {k: head(read[:, :4]) for k, head in self.object_heads.items()}
        logits |= {k: head(read[:, 4]) for k, head in self.background_heads.items()}
        return logits


def _tokens(captions: list[str], device: torch.device) -> tuple[Tensor, Tensor]:
    batch = networks.tokenizer()(
        captions, padding="max_length", max_length=networks.TEXT_TOKENS, truncation=True, return_tensors="pt"
    )
    return batch.input_ids.to(device), batch.attention_mask.to(device)


def train_text(recipe: Recipe, work: Path, accelerator: Accelerator) -> nn.Module:
    """Teach the text encoder which attributes belong to which quadrant, before any image is drawn."""
    torch.manual_seed(0)
    reader = _TextReader()

    def loss(module: nn.Module, step: int, generator: torch.Generator) -> Losses:
        scenes = scene.sample("train", _batch(step, 4 * recipe.batch))
        logits = module(*_tokens(scenes.captions(), accelerator.device))
        return {"loss": judging.loss(logits, scenes)}

    plan = Plan(steps=recipe.text_steps, average=0.99, seed=2)
    optimizer = AdamW(reader.parameters(), lr=2e-3, weight_decay=0.01)
    reader = train("text", reader, loss, [optimizer], plan, work, accelerator=accelerator)
    return reader.encoder.eval().requires_grad_(False)


def train_judge(recipe: Recipe, vae: nn.Module, work: Path, accelerator: Accelerator) -> nn.Module:
    """Train on renders, half of them through the VAE, with noise, blur, brightness and shifts of up to two pixels."""
    torch.manual_seed(0)
    judge = judging.Judge()

    def loss(module: nn.Module, step: int, generator: torch.Generator) -> Losses:
        scenes = scene.sample("train", _batch(step, 2 * recipe.batch))
        images = scene.render(scenes)[0].to(accelerator.device)
        half = len(images) // 2
        with torch.no_grad():
            images[:half] = round_trip(vae, images[:half])
            images = augment(images, generator)
        return {"loss": judging.loss(module(images)[0], scenes)}

    plan = Plan(steps=recipe.judge_steps, average=0.99, seed=3)
    optimizer = AdamW(judge.parameters(), lr=2e-3, weight_decay=0.02)
    judge = train("judge", judge, loss, [optimizer], plan, work, accelerator=accelerator).eval().requires_grad_(False)
    judge.standardise(scene.render(scene.sample("train", range(2048)))[0].to(accelerator.device))
    return judge


def round_trip(vae: nn.Module, images: Tensor) -> Tensor:
    """Images (B, 3, S, S) in 0..1 through the VAE and back."""
    return (vae.decode(vae.encode(images * 2 - 1).latent_dist.mode()).sample / 2 + 0.5).clamp(0, 1)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    batch, device = len(images), images.device

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(batch, 1, 1, 1, generator=generator, device=device)

    dx, dy = torch.randint(-2, 3, (2,), generator=generator, device=device).tolist()
    images = F.pad(images, (2, 2, 2, 2), mode="replicate")[..., 2 + dy : 66 + dy, 2 + dx : 66 + dx]
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    images = torch.lerp(images, blurred, uniform(-0.3, 1.0).clamp(min=0))
    images = images * uniform(0.9, 1.1) + uniform(-0.05, 0.05)
    noise = torch.randn(images.shape, generator=generator, device=device)
    return (images + noise * uniform(0.0, 0.06)).clamp(0, 1)


@torch.no_grad()
def latents(recipe: Recipe, vae: nn.Module, work: Path, accelerator: Accelerator) -> dict[str, Tensor]:
    """Encoded training scenes, cached on disk: latents (M, C, 16, 16) float16 and where objects cover a token,
    (M, 16, 16) bool."""
    path = work / f"latents-{recipe.scenes}.safetensors"
    if path.exists():
        return checkpoints.load(path)[0]
    encoded, covered = [], []
    for start in range(0, recipe.scenes, 256):
        images, coverage = scene.render(scene.sample("train", range(start, min(start + 256, recipe.scenes))))
        mode = vae.encode(images.to(accelerator.device) * 2 - 1).latent_dist.mode()
        encoded.append((mode * vae.config.scaling_factor).half().cpu())
        covered.append(F.avg_pool2d(coverage, 4) > 0.4)
    tensors = {"latents": torch.cat(encoded), "covered": torch.cat(covered)}
    checkpoints.save(path, tensors, {"scenes": recipe.scenes})
    return tensors


class _Student(nn.Module):
    """The DiT, with the heads that read the label map off its middle block while it trains."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.dit = networks.transformer(recipe.width, recipe.layers, recipe.heads)
        classes = sum(n + 1 for n in scene.ATTRIBUTES.values()) + sum(judging.BACKGROUND_HEADS.values())
        self.label_head = nn.Linear(recipe.width, classes)
        self.middle = recipe.layers // 2

    def forward(self, x: Tensor, timestep: Tensor, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []
        block = self.dit.transformer_blocks[self.middle]
        handle = block.register_forward_hook(lambda _m, _i, out: seen.append(out))
        try:
            velocity = self.dit(
                x,
                encoder_hidden_states=states,
                encoder_attention_mask=mask,
                timestep=timestep,
                added_cond_kwargs={},
                return_dict=False,
            )[0]
        finally:
            handle.remove()
        return velocity, self.label_head(seen[0])


def label_loss(logits: Tensor, scenes: scene.Scenes, covered: Tensor) -> Tensor:
    """Cross entropy of the label map. logits (B, N, K); covered (B, H, W) bool, N = H W."""
    batch, height, width = covered.shape
    rows = (torch.arange(height) * 2 // height)[:, None] * 2 + (torch.arange(width) * 2 // width)[None]
    objects = scenes.objects[:, rows.flatten()].to(logits.device)  # (B, N, 4)
    inside = covered.flatten(1).to(logits.device)
    total, start = logits.new_zeros(()), 0
    for column, count in enumerate(scene.ATTRIBUTES.values()):
        target = torch.where(inside, objects[..., column], count)
        target = torch.where(target < 0, count, target)
        # Background tokens are many and easy: a fifth of an object token's weight.
        balance = torch.ones(count + 1, device=logits.device)
        balance[count] = 0.2
        total = total + F.cross_entropy(logits[..., start : start + count + 1].transpose(1, 2), target, balance)
        start += count + 1
    for column, count in enumerate(judging.BACKGROUND_HEADS.values()):
        target = scenes.background[:, column, None].expand(batch, height * width).to(logits.device)
        total = total + F.cross_entropy(logits[..., start : start + count].transpose(1, 2), target)
        start += count
    return total / 6


def train_dit(recipe: Recipe, vae: nn.Module, text: nn.Module, work: Path, accelerator: Accelerator) -> nn.Module:
    cache = latents(recipe, vae, work, accelerator)
    torch.manual_seed(0)
    student = _Student(recipe)
    text = text.to(accelerator.device)
    empty = _tokens([""], accelerator.device)

    def loss_at(pool: int, batch: int, weight: float) -> Callable[[nn.Module, int, torch.Generator], Losses]:
        def loss(module: nn.Module, step: int, generator: torch.Generator) -> Losses:
            device = accelerator.device
            rows = torch.randint(recipe.scenes, (batch,), generator=generator, device=device).cpu()
            scenes = scene.sample("train", rows.tolist())
            clean = cache["latents"][rows].to(device).float()
            covered = cache["covered"][rows]
            if pool > 1:
                clean = F.avg_pool2d(clean, pool)
                covered = F.avg_pool2d(covered.float(), pool) >= 0.5
            ids, mask = _tokens(scenes.captions(), device)
            dropped = torch.rand(batch, generator=generator, device=device) < 0.1  # for classifier-free guidance
            ids, mask = torch.where(dropped[:, None], empty[0], ids), torch.where(dropped[:, None], empty[1], mask)
            with torch.no_grad():
                states = text(ids, attention_mask=mask)[0]
            sigma = torch.randn(batch, generator=generator, device=device).sigmoid()
            noise = torch.randn(clean.shape, generator=generator, device=device)
            mixed = torch.lerp(clean, noise, sigma[:, None, None, None])
            velocity, labels = module(mixed, sigma * 1000, states, mask)
            flow = F.mse_loss(velocity, noise - clean)
            kept = (~dropped).nonzero().flatten().cpu()
            chosen = scene.Scenes(scenes.objects[kept], scenes.offsets[kept], scenes.background[kept])
            reading = label_loss(labels[kept.to(device)], chosen, covered[kept])
            return {"loss": flow + weight * reading, "flow": flow, "labels": reading}

        return loss

    def optimizer(rate: float) -> AdamW:
        return AdamW(student.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)

    small = Plan(steps=recipe.pooled_steps, average=0.995, seed=4, decay=0.1)
    train(
        "dit-pooled",
        student,
        loss_at(2, 2 * recipe.batch, 0.5),
        [optimizer(2e-3)],
        small,
        work,
        accelerator=accelerator,
    )
    full = Plan(steps=recipe.steps, average=0.998, seed=5, decay=0.4)
    train("dit", student, loss_at(1, recipe.batch, 0.25), [optimizer(1.5e-3)], full, work, accelerator=accelerator)
    return student.dit.eval().requires_grad_(False)


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
