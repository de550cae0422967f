"""Names of points: what tells them apart, and nothing else."""

from results.analysis.point_names import point_names, strength, variants


def named(record, *points):
    return [record(method, settings.get("ratio"), settings=settings) for method, settings in points]


def test_only_settings_that_differ_are_told(record):
    records = named(
        record,
        ("dense", {}),
        ("diffcr", {"ratio": 0.1, "axes": "layer", "seed": 0}),
        ("diffcr", {"ratio": 0.2, "axes": "layer, timestep", "seed": 0}),
        ("tome", {"ratio": 0.1, "around": "block"}),
        ("tome", {"ratio": 0.2, "around": "block"}),
    )
    expected = ["dense", "diffcr axes=layer", "diffcr axes=layer,-timestep", "tome", "tome"]
    assert list(variants(records).values()) == expected
    ratios = ["", " 10 %", " 20 %", " 10 %", " 20 %"]
    assert list(point_names(records).values()) == [a + b for a, b in zip(expected, ratios, strict=True)]


def test_a_switch_is_told_where_it_stands_otherwise_than_usual(record):
    controls = [{}, {}, {"control": "random-tokens", "refitted": True}, {"control": "random-tokens"}]
    records = named(
        record,
        *(("diffcr", {"ratio": i / 10, "control": "", "refitted": False} | one) for i, one in enumerate(controls)),
        *(("tome", {"ratio": i / 10, "random": place}) for i, place in enumerate((True, True, False))),
        *(("pab", {"skip": 2, "cross": place}) for place in (True, False)),  # neither is usual
    )
    assert list(variants(records).values()) == [
        "diffcr", "diffcr", "diffcr control=random-tokens refitted=True", "diffcr control=random-tokens",
        "tome", "tome", "tome random=False", "pab cross=True", "pab cross=False",
    ]  # fmt: skip


def test_a_strength_that_is_no_ratio_is_told_unless_its_points_are_taken_together(record):
    records = [record("tgate", None, settings={"gated": share}, strength="gated") for share in (0.3, 0.5)]
    assert list(variants(records).values()) == ["tgate gated=0.3", "tgate gated=0.5"]
    assert set(variants(records, strengths=False).values()) == {"tgate"}
    assert [strength(one) for one in records] == ["gated 0.3", "gated 0.5"]
    assert strength(record("tome", 0.2, settings={"ratio": 0.2})) == "20 %"
    assert strength(record("dense", None, settings={}, strength="")) == ""


def test_seeds_are_told_unless_they_are_taken_together(record):
    records = named(record, *(("diffcr", {"ratio": 0.1, "seed": seed}) for seed in (0, 1)))
    assert list(variants(records).values()) == ["diffcr seed=0", "diffcr seed=1"]
    assert set(variants(records, seeds=False).values()) == {"diffcr"}
