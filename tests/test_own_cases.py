"""A sweep of the user's own prompts or images: as many as there are, judged by what belongs to them."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import harness
from harness import config, plan
from harness.errors import UserError
from harness.judging import clustered
from harness.metric import per_image
from harness.sweep import Sweep
from results.analysis.differences import clusters_of
from results.record import CaseFacts


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "p.txt"
    path.write_text("a red circle\na blue star\na green square\n")
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rows = []
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append(json.dumps({"file_name": f"{number}.png", "text": f"picture {number}"}))
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return folder


def test_as_many_images_as_there_are_prompts(
    tiny_folder: Path, prompts: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = harness.run("tome", model=str(tiny_folder), prompts=prompts, rounds=2, ratios=[0.3], out=tmp_path / "run")
    assert [record.n_cases for record in run.records] == [3, 3] and not run.failed()
    (said,) = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING and "holds" in one.msg]
    assert said == f"{prompts} holds 3 cases: that many images per point instead of 64"
    assert not any(name.startswith(("fid", "kid")) for record in run.records for name in record.estimates)
    assert "psnr_to_dense" in run.records[1].estimates


def test_renders_are_no_reference_for_own_prompts(tiny_folder: Path, prompts: Path, photos: Path) -> None:
    for own in ({"prompts": prompts}, {"data": photos}):
        sweep = config.build({"model": str(tiny_folder), "methods": "dense", "metrics": "fid,paired", "cases": 3}
                             | own)  # fmt: skip
        with pytest.raises(UserError, match="metric 'fid' cannot judge images of these cases: its references are"):
            plan.make(sweep)
        names = {metric.name for metric in plan.make(sweep.model_copy(update={"metrics": None}))[0].opened.metrics}
        assert "paired" in names and not {"fid", "kid"} & names
    scenes = plan.make(config.build({"model": str(tiny_folder), "methods": "dense", "cases": 3}))
    assert {"fid", "kid"} <= {metric.name for metric in scenes[0].opened.metrics}


def test_one_prompt_is_too_few(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("a red circle\n")
    sweep: Sweep = config.build({"model": str(tiny_folder), "methods": "dense", "prompts": tmp_path / "one.txt"})
    with pytest.raises(UserError, match=r"one\.txt holds 1 cases; a sweep takes two at least"):
        plan.make(sweep)


def test_intervals_run_over_prompts_where_several_images_are_of_one() -> None:
    values = np.random.default_rng(0).normal(size=12)
    once = per_image(values, unit="u", better="lower", convention="mean")
    many = per_image(np.repeat(values, 50), unit="u", better="lower", convention="mean")
    cases = [CaseFacts(prompt=f"p {row // 50}", seed=row) for row in range(600)]
    distance = many.model_copy(update={"values": (), "set_distance": "frechet judge"})
    found = clustered({"truth": many, "fid": distance}, clusters_of(cases))
    own = found["truth"]
    assert np.std(own.replicates) > 4 * np.std(many.replicates)
    assert own.value == many.value and found["fid"] is distance
    assert (own.low, own.high) == pytest.approx((once.low, once.high), abs=0.1)
    assert own.high - own.low > 4 * (many.high - many.low)  # type: ignore[operator]
    alone = [CaseFacts(prompt=f"p {row}", seed=row) for row in range(12)]
    assert clustered({"truth": once}, clusters_of(alone)) == {"truth": once}
