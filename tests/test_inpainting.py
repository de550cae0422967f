"""The inpainting task: cases, strategies, user data, whole sweeps on tiny models."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image

import harness
from harness import cli
from harness.errors import UserError
from harness.measure import flops
from harness.models import load
from harness.spec import CALIBRATION_SEEDS, Case
from tasks.inpainting import Inpainting, InpaintingSettings
from tasks.metrics.masked import band


def task(folder: Path, **settings: object) -> Inpainting:
    chosen = InpaintingSettings.model_validate(settings)
    return Inpainting(load(str(folder)), steps=2, guidance=2.0, settings=chosen)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Three cases of a user's own; the last mask is empty."""
    folder, rng = tmp_path / "own", np.random.default_rng(0)
    folder.mkdir()
    rows = []
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        mask = np.zeros((64, 64), dtype=np.uint8)
        mask[8 : 8 + 10 * (2 - i), 8:30] = 255
        Image.fromarray(mask).save(folder / f"{i}_mask.png")
        rows.append({"file_name": f"{i}.png", "mask": f"{i}_mask.png", "text": f"a star {i}"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_a_users_last_pictures_are_to_tune_on(tiny_folder: Path, own: Path, caplog: pytest.LogCaptureFixture) -> None:
    here = task(tiny_folder, strategy="whole")
    cases = here.cases(3, None, own)
    tuned = here.calibration(2, 1, None, own)
    assert [case.digest for case in tuned] == [case.digest for case in cases[1:]]
    assert [case.seed for case in tuned] == [CALIBRATION_SEEDS + 1, CALIBRATION_SEEDS + 2]
    assert "the last 2 of 3 cases are to tune on: evaluate on at most 1" in caplog.text
    with pytest.raises(UserError, match="holds 3 cases, and 2 of a sweep with 2 others"):
        here.calibration(2, 2, None, own)
    with pytest.raises(UserError, match="inpainting takes no --prompts"):
        here.calibration(2, 1, own / "0.txt")
    with pytest.raises(UserError, match="masks come from --data"):
        task(tiny_folder, strategy="whole", mask_area=0.1).calibration(2, 1, None, own)


@pytest.mark.parametrize("area", [0.06, 0.25])
def test_cases_come_from_their_seeds_and_hide_an_object(lazy_folder: Path, area: float) -> None:
    one, other = (task(lazy_folder, mask_area=area).cases(9) for _ in range(2))
    for a, b in zip(one, other, strict=True):
        assert a.digest == b.digest and torch.equal(a.data["mask"], b.data["mask"])
        assert float(a.data["mask"].float().mean()) == pytest.approx(area, abs=0.015)
        quadrant = a.data["quadrant"]
        half = a.data["mask"].unfold(0, 32, 32).unfold(1, 32, 32)[quadrant // 2, quadrant % 2]
        assert half.sum() > 0.5 * min(area * 4096, 1024) * 0.5
    assert len({case.digest for case in one}) == 9


@pytest.mark.parametrize(("kind", "strategy"), [("lazy", s) for s in ("whole", "crop", "lazy")] + [
    ("plain", "whole"), ("plain", "crop")
])  # fmt: skip
def test_untouched_pixels_are_the_inputs_own(
    lazy_folder: Path, tiny_folder: Path, kind: str, strategy: str, own: Path
) -> None:
    folder = lazy_folder if kind == "lazy" else tiny_folder
    here = task(folder, strategy=strategy, mask_area=0.1)
    for cases in (here.cases(4), task(folder, strategy=strategy).cases(3, None, own)):
        made = here.generate(cases)
        for image, case in zip(made, cases, strict=True):
            mask = case.data["mask"]
            assert torch.equal(image[:, ~mask], case.data["image"][:, ~mask])
            assert not mask.any() or not torch.equal(image, case.data["image"])


def test_a_batch_makes_what_its_cases_make_alone(lazy_folder: Path) -> None:
    here = task(lazy_folder, strategy="lazy", mask_area=0.1)
    cases = here.cases(5)
    together = here.generate(cases)
    alone = torch.cat([here.generate([case]) for case in cases])
    assert torch.allclose(together, alone, atol=1e-4)


def test_cost_follows_the_mask_only_where_it_should(lazy_folder: Path) -> None:
    empty = Case(0, "", 0, {"mask": torch.zeros(64, 64, dtype=torch.bool)})
    full = Case(0, "", 0, {"mask": torch.ones(64, 64, dtype=torch.bool)})
    counts = {}
    for strategy in ("whole", "crop", "lazy"):
        for area in (0.06, 0.25):
            here = task(lazy_folder, strategy=strategy, mask_area=area)
            counts[strategy, area] = here.tokens(here.typical(here.cases(16))[0])
            assert here.tokens(empty) == 0 and here.tokens(full) == 256
    assert counts["whole", 0.06] == counts["whole", 0.25] == 256
    assert counts["lazy", 0.06] < counts["lazy", 0.25] < counts["crop", 0.25]


def test_a_sweep_over_areas_and_strategies(lazy_folder: Path, tmp_path: Path) -> None:
    table = harness.run(
        ["tome"], task="inpainting", model=str(lazy_folder), cases=2, rounds=2, steps=2,
        task_settings={"mask_area": [0.06, 0.25]}, metrics=["seam", "masked-alignment"], out=tmp_path,
    )  # fmt: skip
    frame = table.frame
    assert {"strategy", "mask_area", "gmacs_encoder"} <= set(frame.columns)
    assert frame["outcome"].unique().tolist() == ["ok"]
    assert len(frame) == 2 * 4  # three strategies dense, and the method on the cheapest
    assert set(frame[frame["method"] == "tome"]["strategy"]) == {"lazy"}
    dense = frame[frame["method"] == "dense"].set_index(["strategy", "mask_area"])
    assert dense.loc[("whole", 0.06), "gmacs"] == pytest.approx(dense.loc[("whole", 0.25), "gmacs"])
    assert dense.loc[("lazy", 0.06), "gmacs"] < dense.loc[("lazy", 0.25), "gmacs"] < dense.loc[("whole", 0.25), "gmacs"]
    assert dense.loc[("lazy", 0.06), "gmacs_encoder"] == pytest.approx(dense.loc[("lazy", 0.25), "gmacs_encoder"])
    assert len(table.groups) == 2  # one front per mask area, strategies together, in seconds
    assert set(table.costs) == {"gmacs", "latency_s", "peak_memory_mb"}
    assert frame["seam_error[true]"].notna().all()
    made = pd.read_csv(tmp_path / "tables" / "results.csv")
    assert made["mask_area"].tolist() == frame["mask_area"].tolist()
    assert (tmp_path / "plots" / "images.png").exists() and (tmp_path / "plots" / "images-2.png").exists()
    assert (tmp_path / "plots" / "cost_by_mask_area.png").exists()


def test_the_encoder_can_be_compressed_and_is_restored(lazy_folder: Path) -> None:
    plain, merged = (task(lazy_folder, strategy="lazy", encoder_ratio=ratio) for ratio in (0.0, 0.5))
    merged.model = plain.model
    cases, encoder = plain.cases(2), plain.model.pipeline.encoder
    before = plain.generate(cases)
    costs = [flops.count(encoder, lambda t=t: t.generate(cases[:1]), images=1).gmacs for t in (plain, merged)]
    assert 0.4 < costs[1] / costs[0] < 0.65
    assert not torch.equal(merged.generate(cases), before)
    assert torch.equal(plain.generate(cases), before)


def test_an_empty_mask_costs_nothing_and_the_record_says_so(lazy_folder: Path, own: Path, tmp_path: Path) -> None:
    table = harness.run(
        ["dense"], task="inpainting", model=str(lazy_folder), cases=3, rounds=2, steps=2, data=own,
        task_settings={"strategy": "lazy"}, metrics=["seam"], out=tmp_path,
    )  # fmt: skip
    (record,) = table.records
    assert record.outcome == "ok" and "1 with an empty mask" in record.estimates["tokens"].convention
    image = np.asarray(Image.open(tmp_path / record.images[2]))
    assert np.array_equal(image, np.asarray(Image.open(own / "2.png")))


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda f: Image.new("L", (32, 32)).save(f / "1_mask.png"), "the mask has 32 x 32 pixels, its image 64 x 64"),
        (lambda f: Image.new("L", (64, 64), 100).save(f / "1_mask.png"), "must be black and white"),
        (lambda f: Image.new("RGB", (32, 32)).save(f / "1.png"), "the model makes images of 64 x 64"),
        (lambda f: (f / "1_mask.png").unlink(), "1_mask.png is no readable image"),
        (lambda f: (f / "metadata.jsonl").write_text("{}"), "needs file_name, mask and text"),
        (lambda f: [p.unlink() for p in f.iterdir()], "holds no cases"),
    ],
)
def test_bad_user_data(lazy_folder: Path, own: Path, break_it: object, said: str) -> None:
    break_it(own)  # type: ignore[operator]
    with pytest.raises(UserError, match=said):
        task(lazy_folder, strategy="lazy").cases(2, None, own)


@pytest.mark.parametrize("strategy", ["lazy", "whole"])
def test_mostly_empty_masks_do_not_sink_a_sweep(lazy_folder: Path, tmp_path: Path, strategy: str) -> None:
    """The first three of five cases have nothing to generate: costs and token maps are those of the others."""
    folder, rng = tmp_path / "own", np.random.default_rng(0)
    folder.mkdir()
    for i in range(5):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        mask = np.zeros((64, 64), dtype=np.uint8)
        mask[16:32, 16:32] = 255 if i > 2 else 0
        Image.fromarray(mask).save(folder / f"{i}_mask.png")
        (folder / f"{i}.txt").write_text("a red circle")
    table = harness.run(
        "random", model=str(lazy_folder), task="inpainting", data=folder, cases=5, rounds=2, ratios=[0.3], batch=2,
        metrics="paired", task_settings={"strategy": strategy}, out=tmp_path / "run",
    )  # fmt: skip
    assert [(r.method, r.outcome, r.reason) for r in table.records] == [("dense", "ok", ""), ("random", "ok", "")]
    dense, random = (r.estimates["gmacs"] for r in table.records)
    assert 0 < random.value < dense.value and "empty masks aside" in dense.convention
    assert table.records[1].token_maps
    for i in range(5):
        Image.fromarray(np.zeros((64, 64), dtype=np.uint8)).save(folder / f"{i}_mask.png")
    with pytest.raises(UserError, match="the masks of all 5 cases are empty"):
        task(lazy_folder, strategy=strategy).cases(5, None, folder)


def test_grey_masks_are_cut_at_one_half_when_told(lazy_folder: Path, own: Path) -> None:
    grey = np.full((64, 64), 100, dtype=np.uint8)
    grey[:8, :8] = 200
    Image.fromarray(grey).save(own / "1_mask.png")
    case = task(lazy_folder, strategy="lazy", binarize=True).cases(3, None, own)[1]
    assert int(case.data["mask"].sum()) == 64


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--task-set", "strategy=lazzy"], "strategy"),
        (["--task-set", "strategi=lazy"], "did you mean 'strategy'"),
        (["--mask-area", "0"], "mask_area"),
        (
            ["--model", "shapes", "--task-set", "strategy=lazy"],
            "cannot inpaint with strategy 'lazy'; it can: whole, crop",
        ),
        (["--prompts", "x.txt"], "takes no --prompts"),
        (["--data", "/nowhere"], "does not exist"),
        (["--data", "/nowhere", "--mask-area", "0.2"], "leave --mask-area out"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str], said: str, lazy_folder: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    given = ["harness", "run", "--task", "inpainting", "--model", str(lazy_folder), "--methods", "tome", *arguments]
    monkeypatch.setattr(sys, "argv", given)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    error = capsys.readouterr().err.strip().splitlines()
    assert caught.value.code == 2 and len(error) == 1 and said in error[0]
    assert not list(tmp_path.iterdir())


def test_the_band_of_a_seam() -> None:
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:8, 0:8] = True  # touches three edges of the image, which are no borders
    assert band(mask).nonzero()[:, 0].unique().tolist() == [2, 3]


@pytest.mark.parametrize("strategy", ["lazy", "whole"])
def test_what_a_sampler_adds_is_its_case_s_own(lazy_folder: Path, strategy: str) -> None:
    """DDPM draws noise at every step: neither the batch nor what ran before may change it."""
    here = task(lazy_folder, strategy=strategy, mask_area=0.1)
    here.model.pipeline.scheduler = DDPMScheduler()
    cases = here.cases(3)
    together = here.generate(cases)
    torch.manual_seed(5)
    assert torch.allclose(together, torch.cat([here.generate([case]) for case in cases]), atol=1e-4)
