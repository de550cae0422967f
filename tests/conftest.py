import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from diffusers import PixArtSigmaPipeline
from support import CALL, save_tiny

from harness import cli
from harness.backbones.pixart import PixArt
from harness.models import Model, load
from harness.models.inpainting.lazy_pipeline import LazyInpaintPipeline
from harness.zoo.shapes_inpaint.make import Lazy


def pytest_collection_finish() -> None:
    """What is imported by now lives as long as the process: the collections before every timed block pass it over."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _plugins() -> Iterator[None]:
    """Plugin files of one test, which are gone afterwards, are not for the child processes of another."""
    before = set(sys.modules)
    yield
    for name in [name for name in sys.modules if name.startswith("harness_plugin_") and name not in before]:
        del sys.modules[name]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder like the zoo's, untrained and much smaller: 3 layers, width 32."""
    folder = tmp_path_factory.mktemp("tiny") / "pipeline"
    save_tiny(folder)
    return folder


@pytest.fixture
def model(tiny_folder: Path) -> Model:
    found = load(str(tiny_folder))
    _ = found.pipeline  # loading draws random numbers
    return found


@pytest.fixture
def backbone(model: Model) -> PixArt:
    assert isinstance(model.backbone, PixArt)
    return model.backbone


@pytest.fixture
def small(tiny_folder: Path) -> dict[str, object]:
    torch.set_num_threads(1)
    return {"model": str(tiny_folder), "cases": 2, "rounds": 2, "ratios": [0.2]}


@pytest.fixture(scope="session")
def lazy_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Lazy Diffusion pipeline around the tiny one, untrained; the context matters."""
    torch.manual_seed(1)
    start = PixArtSigmaPipeline.from_pretrained(tiny_folder)
    lazy = Lazy(start.transformer, layers=2)
    torch.nn.init.normal_(lazy.decoder.context_proj.weight, std=0.1)
    folder = tmp_path_factory.mktemp("lazy") / "pipeline"
    LazyInpaintPipeline(
        start.tokenizer, start.text_encoder, start.vae, lazy.decoder, start.scheduler, lazy.encoder
    ).save_pretrained(folder)
    call = {name: CALL[name] for name in ("clean_caption", "max_sequence_length")}
    notes = {"scenes": "shapes", "judge": "shapes-judge", "inpaints": True, "call": call}
    (folder / "harness.json").write_text(json.dumps({**notes, "defaults": {"steps": 4, "guidance": 2.0}}))
    return folder


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """The one line that a command ends with."""

    def run(*arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["harness", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), lines
        assert caught.value.code == 2
        return lines[0]

    return run
