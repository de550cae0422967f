"""LPIPS by its definition, and files that hold no weights of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from samples import sample
from torch import nn

from harness.errors import UserError
from tasks.metrics import lpips


def test_lpips_by_its_definition(lpips_file: Path) -> None:
    """Once more, written out on torchvision's own network, with one pass per stage."""
    from torchvision import models

    net = models.alexnet().eval()
    net.load_state_dict(torch.load(lpips_file.parent / "net.pth"))
    lines = torch.load(lpips_file.parent / "linear.pth")
    a, b = sample(2).images, sample(4).images[2:]
    pair = [torch.tensor(x).permute(0, 3, 1, 2) / 127.5 - 1 for x in (a, b)]
    shift, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))
    wanted = torch.zeros(2)
    with torch.no_grad():
        for stage, end in enumerate((2, 5, 8, 10, 12)):
            x, y = (nn.functional.normalize(net.features[:end]((p - shift) / scale), dim=1) for p in pair)
            wanted += ((x - y) ** 2 * lines[f"lin{stage}.model.1.weight"]).sum(1).mean((1, 2))
    found = lpips.between(lpips.network(lpips_file), a, b, torch.device("cpu"))
    assert np.allclose(found, wanted.numpy(), rtol=1e-4)
    assert np.all(lpips.between(lpips.network(lpips_file), a, a, torch.device("cpu")) == 0)


def test_lpips_on_vgg_and_bad_files(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in lpips.Perceptual("vgg").state_dict().items()}
    zeros = {name: torch.zeros(shape, dtype=torch.float16) for name, shape in shapes.items()}
    save_file(zeros, tmp_path / "v.safetensors")
    assert lpips.net_of(tmp_path / "v.safetensors") == "vgg"
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"nothing")
    for name, match in (("a", "fit neither AlexNet nor VGG"), ("b", "no readable safetensors"), ("c", "do not exist")):
        with pytest.raises(UserError, match=match):
            lpips.net_of(tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match="cannot be read as state dicts"):
        lpips.convert(tmp_path / "b.safetensors", tmp_path / "b.safetensors", tmp_path / "out.safetensors")
    torch.save({}, tmp_path / "empty.pth")
    with pytest.raises(UserError, match=r"holds no lin0\.model\.1\.weight"):
        lpips.convert(tmp_path / "empty.pth", tmp_path / "empty.pth", tmp_path / "out.safetensors")
