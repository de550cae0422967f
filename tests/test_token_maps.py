"""Token maps: what they show is what runs."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import build, state_for

from harness.models import Model
from harness.spec import State
from harness.token_maps import record
from harness.tokens import kept_count
from results.plots.token_maps import ratio_table, token_maps
from tasks.text_to_image import TextToImage


@pytest.fixture
def task(model: Model) -> TextToImage:
    return TextToImage(model, steps=4, guidance=2.0)


def test_the_share_of_kept_tokens_is_the_ratios(model: Model, task: TextToImage) -> None:
    method = build("uniform", 0.3)
    maps = record(model, task, task.cases(2)[1], method, state_for(method, model.backbone))
    assert maps.keep.shape == (4, 3, 16, 16) and maps.images.shape == (4, 64, 64, 3)
    kept = maps.keep.reshape(4, 3, -1).mean(-1)
    assert kept == pytest.approx(np.full((4, 3), kept_count(0.3, 256, "floor") / 256))
    assert maps.scores is not None and maps.scores.shape == maps.keep.shape
    assert (maps.scores >= 0).all() and (maps.scores <= 1).all()


def test_regions_and_untouched_layers_show(model: Model, task: TextToImage) -> None:
    method = build("diffcr", 0.2)
    state = state_for(method, model.backbone)
    assert isinstance(state, State)
    state.tensors["ratios"][:] = 0
    state.tensors["ratios"][1, 1] = 0.5  # layer 1, the later half of the steps
    keep = record(model, task, task.cases(2)[0], method, state).keep.reshape(4, 3, -1).mean(-1)
    expected = np.ones((4, 3))
    expected[2:, 1] = 0.5
    assert keep == pytest.approx(expected)


def test_the_pictures(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((5, 2, 4, 4))
    path = token_maps(values, np.zeros((5, 8, 8, 3), np.uint8), tmp_path / "a.png", title="t", label="l", columns=3)
    tall = ratio_table([[0.0, 0.9], [0.3, 0.1]], tmp_path / "b.png", title="t")
    for drawn in (path, tall):
        with Image.open(drawn) as image:
            assert min(image.size) > 100


def test_no_label_is_cut_off_however_many_layers_there_are(tmp_path: Path) -> None:
    values, images = np.random.default_rng(0).random((8, 14, 16, 16)), np.zeros((8, 64, 64, 3), np.uint8)
    with Image.open(token_maps(values, images, tmp_path / "a.png", title="kept", label="share")) as image:
        pixels = np.asarray(image.convert("L"))
    assert all((edge == 255).all() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))
