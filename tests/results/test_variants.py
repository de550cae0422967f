"""Names of points: what tells them apart, and nothing else."""

from results.variants import point_names, variants


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


def test_seeds_are_told_unless_they_are_taken_together(record):
    records = named(record, *(("diffcr", {"ratio": 0.1, "seed": seed}) for seed in (0, 1)))
    assert list(variants(records).values()) == ["diffcr seed=0", "diffcr seed=1"]
    assert set(variants(records, seeds=False).values()) == {"diffcr"}
