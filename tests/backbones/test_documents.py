"""docs/backbones.md is what the contract runs on."""

import re
from pathlib import Path

import test_pixart  # a class of tests imported by name would run here, too
import torch
from document import ELSEWHERE, families, markdown
from torch import Tensor

from harness import registry
from harness.spec import Call
from harness.tokens import scatter, take

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_table_of_backbones_is_up_to_date() -> None:
    told = (ROOT / "docs" / "backbones.md").read_text()
    assert told == markdown(), "python tests/backbones/document.py > docs/backbones.md"


def test_every_backbone_is_under_the_contract() -> None:
    assert {family.name for family in families()} | set(ELSEWHERE) == set(registry.backbones)
    assert all((ROOT / where).is_file() for where in ELSEWHERE.values())


def test_the_example_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", markdown(), re.DOTALL)
    path = tmp_path / "my_dit.py"
    path.write_text(code)
    registry.load_plugin(path)
    try:
        backbone = registry.backbones.get("my-dit")(test_pixart.TestPixArt.family.backbone().transformer)
        dense = test_pixart.TestPixArt.family.forward(backbone)

        def half(call: Call) -> Tensor:
            index = torch.arange(0, call.x.shape[1], 2).expand(len(call.x), -1)
            return scatter(call.x, index, call.run(take(call.x, index), index))

        for part in sorted(backbone.parts):
            with backbone.advise(part, half):
                assert not torch.equal(test_pixart.TestPixArt.family.forward(backbone), dense)
        assert torch.equal(test_pixart.TestPixArt.family.forward(backbone), dense)
    finally:
        registry.backbones.forget("my-dit")
