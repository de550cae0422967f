"""The bundled model `emoji`: its prompts and pictures."""

import logging

import pytest
import torch

from harness.models import Model
from harness.zoo.emoji import held_out, pictures
from tasks.text_to_image import TextToImage


def test_prompts_are_of_held_out_pictures_in_a_fixed_order(emoji: Model) -> None:
    task = TextToImage(emoji, steps=4, guidance=2.5)
    cases = task.cases(1000)
    assert [case.prompt for case in cases[:2]] == [
        "twemoji bullseye on orange",
        "twemoji face with rolling eyes on white",
    ]
    assert cases[:5] == task.cases(5) and len({case.prompt for case in cases}) == 1000
    items = held_out.pictures().items
    assert not any(items[case.data["emoji"]].category == pictures.FLAGS for case in cases)
    assert {item.split for item in items} == {"test"} and len(items) == 512
    tuned, names = task.calibration(64, 1000), {item.name for item in items}
    assert len({case.prompt for case in tuned}) == 64
    for case in tuned:  # neither the captions nor the emoji of what is evaluated
        assert " ".join(case.prompt.split()[1:]).partition(" on ")[0] not in names
    assert task.shown(cases[:2])[0][1].shape == (2, 3, 64, 64) and task.shown(tuned[:2]) == []


def test_a_picture_lies_where_scale_and_shift_say() -> None:
    square = torch.full((1, 4, 64, 64), 255, dtype=torch.uint8)
    on = torch.tensor([[0.0, 0.0, 0.0]])
    image, covered = pictures.compose(square, on, 0.5)
    assert (covered > 0.5).sum() == 32 * 32 and image[0, 0, 32, 32] == 1 and image[0, 0, 5, 5] == 0
    _, moved = pictures.compose(square, on, 0.5, torch.tensor([[0.25, 0.0]]))
    assert torch.allclose(torch.roll(covered, 16, 2), moved, atol=1e-5)  # to the right
    clear = square.clone()
    clear[:, 3] = 0
    assert torch.allclose(pictures.compose(clear, torch.tensor([[51.0, 0, 0]]))[0][0, 0], torch.tensor(0.2))


def test_unknown_words_are_named_and_the_run_goes_on(emoji: Model, caplog: pytest.LogCaptureFixture) -> None:
    from harness.models import prompting

    with caplog.at_level(logging.WARNING):
        prompting.warn_of_unknown(emoji.pipeline, ["noto cat on blue", "noto wug on blue", "a blorp wug"])
        prompting.warn_of_unknown(emoji.pipeline, ["noto cat on blue"])
    assert len(caplog.records) == 1
    assert "2 of 3 prompts hold words that the text encoder does not know (wug, blorp)" in caplog.text
