"""What a fit calls its adapters where it misses its target: nothing that another fit made is written over."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate import Accelerator

from harness import checkpoints
from harness.config import settings_of
from harness.fitting import fit
from harness.fitting.options import FitOptions
from harness.models import load
from harness.sweep import MethodSpec
from harness.zoo.shapes.data import SceneData


def short(tiny: Path, out: Path, work: Path, *, steps: int = 2, ratio: float = 0.5) -> list[Path]:
    """A fit that ends long before its ratio is reached."""
    model = load(str(tiny))
    methods = settings_of(MethodSpec(name="diffcr", settings={}), (ratio,))
    options = FitOptions.model_validate({"steps": steps, "batch": 2, "scenes": 64, "lora_rank": 2})
    own = methods[0].FitSettings.model_validate({"adjust": 1, "coefficient": 1e-6, "rounding": "nearest"})
    data = SceneData(model, 64)
    return fit.fit(methods, model, options, data, out, work, own=own, accelerator=Accelerator(cpu=True))


def test_a_fit_that_misses_its_ratio_leaves_the_adapter_of_that_ratio(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "adapters"
    (missed,) = short(tiny_folder, out, tmp_path / "first")
    assert missed.stem != "diffcr-lt-50"  # named by what it reached, where nothing stands there
    kept = missed.read_bytes()
    (again,) = short(tiny_folder, out, tmp_path / "again")
    assert again == missed and again.read_bytes() == kept  # the same fit takes its own place
    (other,) = short(tiny_folder, out, tmp_path / "other", ratio=0.4)
    assert missed.read_bytes() == kept
    assert other.stem.startswith("diffcr-lt-40-reaches-") and str(other) in capsys.readouterr().out
    assert "settings" not in checkpoints.facts(other)  # so that it does not pass for the adapter of that ratio
