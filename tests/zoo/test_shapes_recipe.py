"""The recipes of `shapes` and `shapes-inpaint`: none goes on with what was trained under other settings."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from harness.cli.options import validated
from harness.errors import UserError
from harness.zoo.shapes import make as shapes
from harness.zoo.shapes_inpaint import data
from harness.zoo.shapes_inpaint import make as shapes_inpaint


class Began(Exception):
    pass


@pytest.mark.parametrize(("made", "first", "setting"), [
    (shapes, "train_vae", "vae_steps"), (shapes_inpaint, "pairs", "steps"),
])  # fmt: skip
def test_other_settings_are_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, made: ModuleType, first: str, setting: str
) -> None:
    def began(*_: Any) -> None:
        raise Began

    monkeypatch.setattr(made, first, began)

    def make(**settings: Any) -> None:
        made.make(validated(made.Recipe, settings), tmp_path, tmp_path / "out", Accelerator(cpu=True))

    for _ in range(2):
        with pytest.raises(Began):
            make(**{setting: 100})
    other = re.escape(f"holds a training with other settings ({setting}=100, not 200): give these, or another --work")
    with pytest.raises(UserError, match=other):
        make(**{setting: 200})


def test_masked_scenes_are_encoded_where_the_vae_is(tmp_path: Path) -> None:
    """In its precision, and kept on the host."""

    class Encoder(nn.Module):
        config = type("Config", (), {"scaling_factor": 1.0})
        device, dtype = torch.device("cpu"), torch.bfloat16

        def encode(self, x: Tensor) -> Any:
            assert x.dtype == self.dtype
            latents = nn.functional.avg_pool2d(x, 4)
            return type("Out", (), {"latent_dist": type("Dist", (), {"mode": staticmethod(lambda: latents)})})

    found = data.pairs(Encoder(), 3, tmp_path / "pairs.safetensors")
    assert found["clean"].shape == (3, 3, 16, 16) and found["clean"].dtype == torch.float16
