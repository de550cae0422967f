"""Words on axes: the rule of the verdict, and none from sets of few images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.attribution import _pairs as pairs_of
from results import Run
from results.analysis.attribution import Pair
from results.analysis.paired import paired
from results.analysis.skewness import skew_adjusted_p
from results.analysis.verdict import judge
from results.plots.attribution import bars, counted
from results.tables import attribution


def skewed(n: int = 16) -> np.ndarray:
    """Differences that sign flips call and a t-test that allows for their skewness does not."""
    for seed in range(1000):
        each = 0.4 - np.random.default_rng(seed).gamma(1, 0.4, n)
        flips = paired(each, np.zeros(n)).p
        if flips is not None and flips <= 0.05 < skew_adjusted_p(each):
            return each
    raise AssertionError("no such sample")


def made(judged: Any, metric: str = "truth[judge]") -> tuple[Run, pd.DataFrame]:
    each = skewed()
    control = judged("diffcr", 0.2, np.full(len(each), 5.0), metric, settings={"ratio": 0.2, "control": "random"})
    method = judged("diffcr", 0.2, 5.0 + each, metric)
    run = Run([method, control])
    return run, attribution.frame(run, [Pair(method, control, "tokens", "random", "swapped")])


def test_a_word_needs_the_t_test_that_allows_for_skewness_as_the_verdict_does(judged: Any) -> None:
    run, table = made(judged)
    row = table.iloc[0]
    flips = paired(skewed(), np.zeros(16)).p
    assert flips is not None and flips <= 0.05 < row["p"]
    assert "not distinguishable with 16 images" in attribution.document(run, table)
    dense = run.records[1].model_copy(update={"method": "dense", "settings": {}, "ratio": None})
    (one,) = judge([dense, run.records[0]]).sections[0].blocks[0].to_dense
    assert one.p == row["p"] and one.word == "not distinguishable"


def test_sets_of_few_images_earn_no_word_and_are_no_headline(judged: Any) -> None:
    run, table = made(judged)
    fid = table.assign(metric="fid[judge]", p=0.001)
    assert attribution.headline(pd.concat([fid, table.assign(metric="alignment")])) == "alignment"
    assert attribution.headline(fid) == "fid[judge]"
    text = attribution.document(run, fid)
    assert "not ranked below 1,000 images" in text and "better" not in text.partition("## fid")[2].replace(
        "is better", ""
    )
    assert "not ranked" not in attribution.document(run, fid.assign(n=1000))


def test_fine_tuned_dense_is_held_against_dense_of_its_own_task_settings(judged: Any) -> None:
    """A crop's dense runs first, and is worse by far than what tuning does."""
    rng = np.random.default_rng(0)
    each = rng.gamma(9, 1, 16)
    records = []
    for strategy, off in (("crop", 3.0), ("lazy", 0.0)):
        task = {"strategy": strategy}
        records.append(judged("dense", None, each + off, task_settings=task, settings={}, key=f"dense, {strategy}"))
        tuned = each + off - 0.1 + 0.01 * rng.normal(size=16)
        records.append(
            judged("dense-ft", None, tuned, task_settings=task, settings={"seed": 0}, key=f"tuned, {strategy}")
        )
    run = Run(records)
    table = attribution.frame(run, list(pairs_of(run, "diffcr", [], [])))
    assert list(table["seed"]) == ["0", "0"]  # two claims, not two seeds of one
    assert table["difference"].tolist() == pytest.approx([-0.1, -0.1], abs=0.02)
    assert [json.loads(one)["strategy"] for one in table["task"]] == ["crop", "lazy"]
    assert all(one in attribution.document(run, table) for one in ('"crop"', '"lazy"'))


def test_a_claim_of_one_seed_stands_beside_those_of_several(judged: Any, tmp_path: Path) -> None:
    run, table = made(judged)
    several = pd.concat([table.assign(seed=seed, p=0.01) for seed in ("0", "1", attribution.ALL)])
    alone = table.assign(control="random-tokens", p=0.02)
    both = pd.concat([several, alone], ignore_index=True)
    assert list(both[counted(both)]["seed"]) == [attribution.ALL, "0"]
    lines = [line for line in attribution.document(run, both).splitlines() if line.startswith("| diffcr")]
    corrected = [line.split("|")[-3].strip() for line in lines]
    assert corrected == ["", "", "0.02", "0.02"]  # Holm over two claims
    assert (
        bars(both, "truth[judge]", tmp_path / "all.png").stat().st_size
        > bars(several, "truth[judge]", tmp_path / "some.png").stat().st_size
    )
