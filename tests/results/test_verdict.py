"""Verdicts: words, families, few images, several seeds, budgets, fidelity and old records."""

import io

import numpy as np
import pytest
from rich.console import Console

from results.analysis.comparisons import word_of
from results.analysis.verdict import judge
from results.analysis.verdict_types import Verdict
from results.plots.forest import forest
from results.tables import budgets
from results.tables.formatting import change
from results.tables.verdict import document, show

N = 64
RNG = np.random.default_rng(0)
DENSE = RNG.gamma(9, 2 / 3, N)  # mean about 6
NOISE = RNG.normal(0, 0.1, N)
NOISE -= NOISE.mean()


def printed(verdict: Verdict) -> str:
    stream = io.StringIO()
    show(verdict, Console(file=stream, width=120))
    return stream.getvalue()


@pytest.fixture
def sweep(judged):
    """Lost half a unit, gained as much, lost nothing sharply, and lost nothing in wide noise."""
    return [
        judged("dense", None, DENSE),
        judged("worse", 0.2, DENSE + 0.5 + NOISE),
        judged("better", 0.2, DENSE - 0.5 + NOISE),
        judged("same", 0.2, DENSE + 0.1 * NOISE),
        judged("noisy", 0.2, DENSE + 20 * NOISE),
    ]


def test_the_four_words(sweep):
    (section,) = judge(sweep).sections
    (block,) = section.blocks
    words = {one.method: one.word for one in block.to_dense}
    assert words == {
        "worse 20 %": "worse", "better 20 %": "better", "same 20 %": "no worse than margin",
        "noisy 20 %": "not distinguishable",
    }  # fmt: skip
    assert block.title == "20 %" and all(one.family == "confirmatory" for one in block.to_dense)
    assert all(one.family == "exploratory" for one in block.to_rival)
    noisy = block.to_dense[3]
    assert noisy.text == f"not distinguishable with 64 images (detectable: {noisy.detectable:.2g})"
    assert section.dense == pytest.approx(DENSE.mean()) and not section.fidelity


@pytest.mark.parametrize(
    ("value", "p", "p_margin", "word"),
    [
        (0.1, 0.04, None, "worse"),
        (-0.1, 0.04, None, "better"),
        (-0.1, 0.04, 0.001, "better"),
        (0.1, 0.001, 0.02, "no worse than margin"),  # a loss, and smaller than the margin
        (0.1, 0.06, 0.03, "not distinguishable"),
        (0.1, None, None, "not distinguishable"),
    ],
)
def test_words_from_p(value, p, p_margin, word):
    assert word_of(value, p, p_margin, "lower") == word
    assert word_of(-value, p, p_margin, "higher") == word


def test_the_family_is_adjusted_over_all_points_of_the_workload(judged):
    """One p of 0.02 to 0.05 among nine others that say nothing is no finding."""
    rng = np.random.default_rng(3)
    found = [judged("dense", None, DENSE)]
    shift = 2.2 * 0.3 / N**0.5
    noise = rng.normal(0, 0.3, N)
    found.append(judged("one", 0.1, DENSE + shift + (noise - noise.mean())))
    found += [judged(f"m{k}", 0.2, DENSE + rng.normal(0, 0.3, N)) for k in range(9)]
    first = judge(found).sections[0].blocks[0].to_dense[0]
    assert first.p is not None and 0.01 < first.p < 0.05
    assert first.p_adjusted is not None and first.p_adjusted > 0.05 and first.word == "not distinguishable"
    alone = judge(found[:2]).sections[0].blocks[0].to_dense[0]
    assert alone.word == "worse" and alone.p_adjusted == alone.p


def test_ranks_ties_and_the_best_rival(sweep):
    block = judge(sweep).sections[0].blocks[0]
    ranks = {one.point: (one.low, one.high) for one in block.ranks}
    assert ranks["better 20 %"][0] == 1 and ranks["worse 20 %"] != ranks["better 20 %"]
    assert sum(one.best for one in block.ranks) == pytest.approx(1)
    rivals = {(one.method, one.comparator): one.word for one in block.to_rival}
    assert rivals["worse 20 %", "better 20 %"] == "worse"
    assert ("better 20 %", "worse 20 %") not in rivals


def test_what_settles_it_and_what_that_costs(judged):
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 1.5, N)
    records = [judged("dense", None, DENSE), judged("m", 0.2, DENSE + 0.3 + (noise - noise.mean()))]
    one = judge(records).sections[0].blocks[0].to_dense[0]
    assert one.word == "not distinguishable" and one.sd is not None
    needed = (2.8 * one.sd / one.difference) ** 2
    assert one.settle_images == pytest.approx(needed, rel=0.05)
    assert one.settle_minutes == pytest.approx(one.settle_images * (0.5 + 0.5) / 60)
    assert "would settle it" in printed(judge(records))


def test_fewer_than_eight_images_and_one_image(judged):
    for n, said in (
        (7, "not distinguishable with 7 images"),
        (1, "not distinguishable with 1 image (detectable: unknown)"),
    ):
        records = [judged("dense", None, DENSE[:n]), judged("m", 0.2, DENSE[:n] + 5)]
        (section,) = judge(records).sections
        one = section.blocks[0].to_dense[0]
        assert one.p is None and one.text.startswith(said)
        assert any("fewer than 8 give no p-value" in note for note in section.notes)
        document(judge(records)), printed(judge(records))


def test_one_training_seed_is_told_and_several_are_the_unit(judged):
    dense = judged("dense", None, DENSE)
    fits = [
        judged("fit", 0.2, DENSE + 0.4 + 0.05 * seed + NOISE, settings={"ratio": 0.2, "seed": seed})
        for seed in range(3)
    ]
    alone = judge([dense, fits[0]]).sections[0]
    assert any("the interval covers images only, not training" in note for note in alone.notes)
    together = judge([dense, *fits]).sections[0]
    (one,) = together.blocks[0].to_dense
    assert one.seeds == 3 and one.difference == pytest.approx(0.45) and one.word == "worse"
    assert not any("one training seed" in note for note in together.notes)
    assert one.low is not None and one.low < 0.4  # Student's over three means, not the images'


def test_the_best_is_no_surer_than_its_training_seeds(judged):
    def fits(method, levels):
        return [
            judged(method, 0.2, DENSE + level + 0.1 * NOISE, settings={"ratio": 0.2, "seed": seed})
            for seed, level in enumerate(levels)
        ]

    records = [judged("dense", None, DENSE), *fits("one", (0.1, 0.5, 0.9)), *fits("other", (0.8, 0.6, 0.2))]
    verdict = judge(records)
    shares = [one.best for one in verdict.sections[0].blocks[0].ranks]
    assert sum(shares) == pytest.approx(1) and max(shares) < 0.8
    assert "training seeds where a point has" in document(verdict)


def test_points_whose_short_names_are_alike_stay_two(judged):
    records = [judged("dense", None, DENSE)]
    records += [judged("m", ratio, DENSE + ratio) for ratio in (0.20001, 0.20002)]
    (block,) = judge(records).sections[0].blocks
    assert len({one.method for one in block.to_dense}) == 2


def test_budgets_are_blocks(judged):
    records = [judged("dense", None, DENSE)]
    records += [judged("a", None, DENSE + 0.5 + NOISE, settings={"depth": 3}), judged("b", 0.3, DENSE + NOISE)]
    matches = [
        {"method": r.method, "chosen": r.settings, "axis": "latency", "budget": 0.8, "strength": 1} for r in records[1:]
    ]
    out_of_reach = matches[0] | {"budget": 0.5, "strength": None}  # left out: the point is of the budget that it met
    (block,) = judge(records, [out_of_reach, *matches]).sections[0].blocks
    assert block.title == "latency 0.8" and len(block.to_dense) == 2 and len(block.ranks) == 2


def test_without_truth_the_headline_is_fidelity_and_has_no_margin(judged):
    psnr = {"metric": "psnr_to_dense", "better": "higher", "unit": "dB"}
    dense = judged("dense", None, DENSE, metric="alignment", better="higher")
    records = [dense, judged("a", 0.2, 30 + NOISE, **psnr), judged("b", 0.2, 25 - NOISE, **psnr)]
    (section,) = judge(records).sections
    (block,) = section.blocks
    assert section.fidelity and section.margin is None and not block.to_dense
    (one,) = block.to_rival
    assert (one.method, one.word, one.family, one.relative) == ("a 20 %", "better", "confirmatory", None)
    assert "That is no quality" in document(judge(records)) and "fidelity to dense, not quality" in printed(
        judge(records)
    )


def test_mask_areas_are_judged_apart(judged):
    """Each area against its own dense, whose cases it shares."""
    records = []
    for area, loss in ((0.06, 0.5), (0.25, -0.5)):
        about = {"task_settings": {"mask_area": area}, "fingerprint": {"cases": str(area), "weights": "w"}}
        records += [judged("dense", None, DENSE, **about), judged("m", 0.2, DENSE + loss + NOISE, **about)]
    words = [section.blocks[0].to_dense[0].word for section in judge(records).sections]
    assert words == ["worse", "better"]


def test_nothing_to_judge_is_said(judged, record):
    old = record("dense", schema_version=1), record("m", 0.2, schema_version=1)
    assert "schema 1 hold no values per image" in document(judge(old))
    assert "No headline metric" in document(judge([record("dense"), record("m", 0.2)]))
    lost = judged("dense", None, DENSE, outcome="failed", reason="NaN")
    assert "Dense has no usable record" in document(judge([lost, judged("m", 0.2, DENSE)]))


def test_the_json_reads_back(sweep):
    verdict = judge(sweep)
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict


@pytest.mark.parametrize(
    ("low", "high", "said"), [(0.79, 0.84, False), (0.8, 0.81, False), (0.809, 0.874, True), (0.7, 0.79, True)]
)
def test_a_budget_that_was_met_by_chance_is_said_to_be_missed(judged, estimate, low, high, said, tmp_path):
    """Of noisy costs the one nearest to the budget is taken in tuning, so that it is off where it is measured again."""
    latency = estimate((low + high) / 2, low=low, high=high, n=12, unit="method / dense", role="cost")
    records = [judged("dense", None, DENSE), judged("m", 0.2, DENSE, estimates={"latency_ratio": latency})]
    match = {
        "method": "m", "settings": {}, "chosen": records[1].settings, "axis": "latency", "budget": 0.8,
        "setting": "ratio", "strength": 0.2, "cost": 0.803, "met": True, "tried": 4,
    }  # fmt: skip
    (section,) = judge(records, [match]).sections
    assert any("met latency 0.8 on calibration images (0.803) and does not here" in n for n in section.notes) is said
    frame = budgets.matched(records, [match])
    assert frame["held"].tolist() == [not said] and frame["evaluated"].tolist() == [latency.value]
    budgets.write_matched(records, [match], tmp_path)
    assert ("0.803 *missed* |" in (tmp_path / "tables" / "matched.md").read_text()) is said


def test_what_the_images_resolve_is_printed(sweep):
    text = printed(judge(sweep))
    assert "64 images show differences from" in text and "% of dense's on, 8 times in 10" in text
    assert "exploratory: the best rival is chosen after looking" in text


def test_a_forest_of_each_section(sweep, tmp_path):
    path = forest(judge(sweep).sections[0], tmp_path / "verdict.png")
    assert path.stat().st_size > 5000


def test_clip_score_and_fid_of_many_images_are_held_against_dense(judged, estimate):
    def scores(fid, clip, n):
        about = {"role": "quality", "n": n}
        return {
            "fid[x]": estimate(fid, better="lower", **about),
            "clip_score[x]": estimate(clip, better="higher", **about),
        }

    records = [judged("dense", None, DENSE, estimates=scores(10, 0.3, 5000)),
               judged("m", 0.2, DENSE, estimates=scores(10.1, 0.29, 5000))]  # fmt: skip
    text = document(judge(records))
    assert "| m 20 % | `fid[x]` | 10.1 | 10 | 5000 | pass |" in text
    assert "| m 20 % | `clip_score[x]` | 0.29 | 0.3 | 5000 | fail |" in text


def test_latency_has_a_word_from_eight_pairs_on(judged, estimate):
    rng = np.random.default_rng(7)
    for pairs, word in ((12, "faster"), (6, "")):
        dense_s = 1 + 0.02 * rng.random(pairs)
        samples = {"latency_dense_s": dense_s.tolist(), "latency_method_s": (0.8 * dense_s).tolist()}
        latency = {"latency_ratio": estimate(0.8, low=0.79, high=0.81, n=pairs, unit="method / dense", role="cost")}
        records = [judged("dense", None, DENSE), judged("m", 0.2, DENSE, samples=samples, estimates=latency)]
        cost = judge(records).sections[0].blocks[0].to_dense[0].cost
        assert (cost.latency, cost.latency_word, cost.gmacs) == (0.8, word, pytest.approx(0.8))


def test_images_that_the_metric_does_not_apply_to(judged):
    holes = DENSE + 0.5 + NOISE
    holes[:3] = np.nan
    one = judge([judged("dense", None, DENSE), judged("m", 0.2, holes)]).sections[0].blocks[0].to_dense[0]
    assert one.n == N - 3 and one.word == "worse"


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_latency_that_is_the_hosts_says_nothing(judged, estimate, share):
    latency = {"latency_ratio": estimate(0.8, low=0.79, high=0.81, n=12, unit="method / dense", role="cost")}
    busy = {"device_busy": estimate(share, unit="share of wall time")}
    records = [judged("dense", None, DENSE, estimates=busy), judged("m", 0.2, DENSE, estimates=latency)]
    word = judge(records).sections[0].blocks[0].to_dense[0].cost.latency_word
    assert word == ("launch-bound" if share < 0.75 else "faster")


def test_a_latency_within_the_noise_floor_says_nothing(judged, estimate):
    for floor, word in (("0.01", "faster"), ("0.05", "not distinguishable")):
        latency = {"latency_ratio": estimate(0.97, low=0.96, high=0.98, n=12, unit="method / dense", role="cost")}
        records = [
            judged("dense", None, DENSE),
            judged("m", 0.2, DENSE, estimates=latency, environment={"latency_floor": floor}),
        ]
        assert judge(records).sections[0].blocks[0].to_dense[0].cost.latency_word == word


@pytest.mark.parametrize("width", [80, 120])
def test_long_names_fit_the_terminal(judged, width):
    """At 80 columns the costs leave the table and are named; no word and no interval is broken."""
    name = "diffcr+fewer-steps+taylorseer"
    points = [judged("dense", None, DENSE)]
    points += [judged(name, ratio, DENSE + ratio + NOISE) for ratio in (0.1, 0.2, 0.3)]
    points += [judged("tome", ratio, DENSE + ratio + 20 * NOISE) for ratio in (0.1, 0.2, 0.3)]
    stream = io.StringIO()
    show(judge(points), Console(file=stream, width=width))
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert ("Too wide for 80 columns: GMACs and latency; see tables/verdict.md." in text) == (width == 80)
    for one in (one for block in judge(points).sections[0].blocks for one in block.to_dense):
        scale = one.relative / one.difference
        assert f"[{change(one.low * scale)}, {change(one.high * scale)}]".replace(" %", "") in text
    assert text.count("not distinguishable") + text.count("not \n") >= 1 and "distinguishable" in text


def test_dense_that_lacks_the_headline_alone_is_said(sweep):
    (dense, *others) = sweep
    bare = dense.model_copy(update={"estimates": {}, "outcome": "incomplete", "reason": "metric truth failed"})
    (section,) = judge([bare, *others]).sections
    assert not section.blocks and "dense lacks truth[judge]: nothing to compare with" in section.notes


def test_a_point_that_led_to_two_budgets_stands_in_both(sweep):
    def match(record, budget):
        return {"method": record.method, "settings": {}, "chosen": record.settings, "axis": "gmacs", "budget": budget,
                "setting": "ratio", "strength": 0.2, "cost": 0.775}  # fmt: skip

    _, worse, better, same, _ = sweep
    matches = [match(worse, 0.8), match(better, 0.8), match(worse, 0.75), match(same, 0.75)]
    (section,) = judge(sweep[:4], matches).sections
    blocks = {block.title: [one.method for one in block.to_dense] for block in section.blocks}
    assert blocks == {"gmacs 0.8": ["worse 20 %", "better 20 %"], "gmacs 0.75": ["worse 20 %", "same 20 %"]}
    pairs = [frozenset((one.method, one.comparator)) for block in section.blocks for one in block.to_rival]
    assert len(pairs) == len(set(pairs)) == 2


def test_dense_alone_has_no_table(judged):
    console = Console(file=io.StringIO(), width=100)
    show(judge([judged("dense", None, np.arange(1.0, 25.0))]), console)
    assert "no point beside dense: nothing to compare" in console.file.getvalue()
    assert "against" not in console.file.getvalue()
