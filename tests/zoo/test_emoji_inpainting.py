"""Inpainting on the bundled model `emoji`: held-out pictures under masks."""

from pathlib import Path

import pytest
import torch

import harness
from harness.errors import UserError
from harness.models import Model
from harness.zoo.emoji import held_out
from tasks import inpainting_cases
from tasks.inpainting import Inpainting, InpaintingSettings


def task(model: Model, **settings: object) -> Inpainting:
    return Inpainting(model, steps=1, guidance=2.5, settings=InpaintingSettings.model_validate(settings))


@pytest.mark.parametrize("area", [0.06, 0.25])
def test_masks_lie_on_the_objects_of_held_out_pictures(emoji: Model, area: float) -> None:
    cases = task(emoji, mask_area=area).cases(30)
    images, coverage = held_out.true_pictures(held_out.cases("evaluation", 30))
    for case, image, covered in zip(cases, images, coverage, strict=True):
        mask = case.data["mask"]
        assert torch.allclose(case.data["image"], image, atol=0.5 / 255 + 1e-6)
        assert float(mask.float().mean()) == pytest.approx(area, abs=0.015)
        on = covered > 0.5
        assert (mask & on).any()
        if case.index % 3 == 2:  # the object itself: all of it, or nothing beside it
            assert (mask | ~on).all() or (on | ~mask).all()
    inpainting_cases.from_pictures.cache_clear()
    again = task(emoji, mask_area=area).cases(30)
    assert [case.digest for case in again] == [case.digest for case in cases]


def test_no_held_out_picture_comes_twice(emoji: Model) -> None:
    one = task(emoji)
    cases = one.cases(1000)
    assert len(cases) == held_out.COUNT == len({case.digest for case in cases})
    tuned = one.calibration(20, 128)
    assert [case.digest for case in tuned] == [case.digest for case in cases[-20:]]  # whatever is evaluated before them
    assert not {case.seed for case in tuned} & {case.seed for case in cases}
    with pytest.raises(UserError, match="440 cases"):
        one.calibration(20, 430)


def test_a_run_inpaints_them(tmp_path: Path) -> None:
    run = harness.run("random", model="emoji", task="inpainting", ratios=[0.2], cases=3, steps=1, rounds=2,
                      metrics="truth,seam,paired", task_settings={"mask_area": 0.06}, out=tmp_path / "run")  # fmt: skip
    assert {(record.method, record.task_settings["strategy"]) for record in run.records} == {
        ("dense", "whole"), ("dense", "crop"), ("random", "crop")
    }  # fmt: skip
    for record in run.records:
        assert record.outcome == "ok" and {"truth_pixels", "seam_error[true]"} <= record.estimates.keys()
        assert not any(name.startswith(("fid", "kid", "retrieval")) for name in record.estimates)
    whole, crop = (record.estimates["gmacs"].value for record in run.records[:2])
    assert crop < whole
