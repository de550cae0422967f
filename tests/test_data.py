"""Fits on a user's own folder of images and captions."""

import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torchvision.transforms.functional import to_pil_image

from harness import checkpoints
from harness.backbones import lora
from harness.config import MethodSpec, settings_of
from harness.errors import UserError
from harness.fitting import fit
from harness.fitting.data import FolderData, data_for
from harness.fitting.options import FitOptions
from harness.fitting.request import Request
from harness.models import Model
from harness.training.batches import Batch, encode
from harness.zoo.shapes import scene


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    out = tmp_path / "data"
    out.mkdir()
    scenes = scene.sample("train", range(5))
    lines = []
    for i, (image, caption) in enumerate(zip(scene.render(scenes)[0], scenes.captions(), strict=True)):
        to_pil_image(image).resize((96, 64)).save(out / f"{i}.png")  # cropped to the model's 64 x 64
        lines.append(json.dumps({"file_name": f"{i}.png", "text": caption}))
    (out / "metadata.jsonl").write_text("\n".join(lines))
    return out


def texts(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    return batch.inputs["encoder_hidden_states"], batch.inputs["encoder_attention_mask"]


def test_batches_hold_the_folders_own_samples(model: Model, folder: Path, tmp_path: Path) -> None:
    data = FolderData(model, folder, tmp_path / "cache")
    batch = data.batch(4, torch.Generator().manual_seed(0))
    latents, (states, masks) = batch.clean, texts(batch)
    assert latents.shape == (4, 6, 16, 16) and states.shape[0] == 4 and masks.shape == states.shape[:2]
    again = FolderData(model, folder, tmp_path / "cache").batch(4, torch.Generator().manual_seed(0))
    assert torch.equal(latents, again.clean) and torch.equal(states, texts(again)[0])
    rows = data.shards.rows(range(5))["latents"]
    assert all((rows == latent).flatten(1).all(1).any() for latent in latents)


def test_txt_files_beside_the_images_say_the_same(model: Model, folder: Path, tmp_path: Path) -> None:
    first = FolderData(model, folder, tmp_path / "a")
    for line in (folder / "metadata.jsonl").read_text().splitlines():
        row = json.loads(line)
        (folder / row["file_name"]).with_suffix(".txt").write_text(row["text"])
    (folder / "metadata.jsonl").unlink()
    second = FolderData(model, folder, tmp_path / "b")
    one, other = (data.batch(3, torch.Generator().manual_seed(1)) for data in (first, second))
    assert torch.equal(one.clean, other.clean)
    assert all(torch.equal(a, b) for a, b in zip(texts(one), texts(other), strict=True))


def test_bad_files_are_named_and_left_out_only_when_told(model: Model, folder: Path, tmp_path: Path) -> None:
    (folder / "3.png").write_bytes(b"")
    with open(folder / "metadata.jsonl", "a") as handle:
        handle.write('\n{"file_name": "9.png"}')
    with pytest.raises(UserError, match=r"2 bad files: line 6 .* has no file_name and text; 3\.png is no readable"):
        FolderData(model, folder, tmp_path / "cache")
    data = FolderData(model, folder, tmp_path / "cache", skip_bad=True)
    assert len(data.pairs) == 4 and len(data.skipped) == 2
    with pytest.raises(UserError, match="holds no image with a caption"):
        FolderData(model, tmp_path / "cache", tmp_path / "cache")
    with pytest.raises(UserError, match="does not exist"):
        FolderData(model, tmp_path / "nowhere", tmp_path / "cache")


def test_latents_decode_to_the_images(model: Model) -> None:
    """The scaling is the pipeline's: what is encoded here is what its decoder expects."""
    images = scene.render(scene.sample("train", range(2)))[0]
    rows = encode(model, images, ["a", "b"])
    vae = model.pipeline.vae
    with torch.no_grad():
        direct = vae.decode(vae.encode(images * 2 - 1).latent_dist.mode()).sample
        through = vae.decode(rows["latents"] / vae.config.scaling_factor).sample
    assert torch.allclose(direct, through, atol=1e-4)


def test_a_plain_fine_tuning_on_a_folder(model: Model, folder: Path, tmp_path: Path) -> None:
    methods = settings_of(MethodSpec(name="dense-ft"), ())
    options = FitOptions(steps=3, batch=2, lora_rank=2)
    data = data_for(model, options, trains=True, folder=folder, work=tmp_path)
    (path,) = fit.fit(
        methods, model, options, data, tmp_path / "out", tmp_path / "work", accelerator=Accelerator(cpu=True)
    )
    tensors, facts = checkpoints.load(path)
    assert path.stem == facts["method"] == "dense-ft"
    assert tensors and all(name.startswith("lora.") for name in tensors)
    assert any(tensor.abs().sum() > 0 for name, tensor in tensors.items() if name.endswith(".B"))


def test_lora_targets(model: Model) -> None:
    with pytest.raises(UserError, match=r"unknown LoRA target 'to_qq': did you mean "):
        lora.inject(model.backbone, 2, targets=["to_qq"])
    lora.inject(model.backbone, 2, targets=["to_q", "ff.net.2"])
    ends = {name.partition(".lora_")[0].split(".", 2)[2] for name in lora_names(model)}
    assert ends == {"attn1.to_q", "attn2.to_q", "ff.net.2"}


def lora_names(model: Model) -> list[str]:
    return [name for name, _ in model.backbone.transformer.named_parameters() if "lora_" in name]


TRAINED = [("uniform", {}), ("random-ft", {}), ("depth-ft", {}), ("width-ft", {}), ("dense-ft", {}), ("l2c", {}),
           ("diffcr", {}), ("diffcr", {"axes": "layer"}), ("diffcr", {"preset": "paper"})]  # fmt: skip


@pytest.mark.parametrize(("name", "settings"), TRAINED)
def test_bfloat16_trains_float32_weights(
    tiny_folder: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    settings: dict[str, str],
) -> None:
    monkeypatch.chdir(tmp_path)
    AcceleratorState._reset_state(True)
    values = {"steps": 3, "batch": 2, "lora_rank": 2, "scenes": 64, "precision": "bfloat16"}
    ratios = () if name == "dense-ft" else (0.2,)
    try:
        request = Request(name, settings, ratios, FitOptions.model_validate(values))
        paths = request.run(str(tiny_folder), tmp_path / "out", data=folder)
    finally:
        AcceleratorState._reset_state(True)
    tensors, facts = checkpoints.load(next(path for path in paths if path.suffix == ".safetensors"))
    assert facts["fit"]["precision"] == "bfloat16"
    assert torch.bfloat16 not in {t.dtype for t in tensors.values()}
    assert all(bool(t.isfinite().all()) for t in tensors.values())
