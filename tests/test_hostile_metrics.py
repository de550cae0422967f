"""A plugin's metric can lose its own figures, and no others."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import harness
from harness import registry
from harness.judging import judged
from harness.metric import Metric, Sample
from harness.models import Model
from harness.spec import Case
from results.record import Estimate

PLUGIN = """
import numpy as np
import harness
from harness.metric import Metric
from results.record import Estimate

def est(v, n=2, **k):
    return Estimate(value=v, n=n, unit="score", convention="mine", role="quality", better="higher", **k)

GIVEN = {
    "m-raise": lambda s, d: 1 / 0,
    "m-nan": lambda s, d: {"m_nan": est(float("nan")), "m_inf": est(float("inf"))},
    "m-bounds": lambda s, d: {"m_bounds": est(0.5, low=0.9, high=0.1), "m_half": est(0.5, low=0.1)},
    "m-count": lambda s, d: {"m_many": est(0.5, n=999999), "m_none": est(0.5, n=0)},
    "m-notdict": lambda s, d: 3.0,
    "m-overwrite": lambda s, d: {"gmacs": est(1e-4), "latency_ratio": est(0.01), "psnr_to_dense": est(99.0),
                                 "gmacs_new": est(1.0)},
    "m-float": lambda s, d: {"m_float": 0.5},
    "m-write": lambda s, d: s.images.__setitem__(slice(None), 0) or {"m_write": est(1.0)},
    "m-values": lambda s, d: {"m_values": est(0.5, values=(0.5,))},
    "m-name": lambda s, d: {"": est(0.5), 3: est(0.5), "a\\nb": est(0.5)},
    "m-features": lambda s, d: s.features.update(own="text", short=np.zeros((1, 3))) or {"m_features": est(0.5)},
    "m-good": lambda s, d: {"m_good": est(float(s.images.mean()))},
}
for name, given in GIVEN.items():
    def estimates(self, sample, dense, given=given):
        return given(sample, dense)
    harness.metrics.register(name)(type("M", (Metric,), {"estimates": estimates, "__module__": __name__}))
"""
NAMES = [line.split('"')[1] for line in PLUGIN.splitlines() if line.startswith('    "m-')]


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "hostile_metrics.py"
    path.write_text(PLUGIN)
    yield path
    for name in NAMES:
        registry.metrics.forget(name)


def test_each_loses_its_own_figures_alone(plugin: Path, tiny_folder: Path, tmp_path: Path) -> None:
    how = {"model": str(tiny_folder), "cases": 2, "rounds": 2, "ratios": [0.3]}
    plain = harness.run("random", metrics="paired", out=tmp_path / "plain", **how)  # type: ignore[arg-type]
    table = harness.run(
        "random", metrics=["m-write", *(n for n in NAMES if n != "m-write"), "paired"], plugins=[plugin],
        out=tmp_path / "run", **how,  # type: ignore[arg-type]
    )  # fmt: skip
    for record, before in zip(table.records, plain.records, strict=True):
        assert record.outcome == "incomplete", record.reason
        assert record.estimates["gmacs"].value == before.estimates["gmacs"].value
        assert {"m_good", "m_features"} == {name for name in record.estimates if name.startswith("m_")}
        images = [np.asarray(harness.open_run(tmp_path / "run").folder / one) for one in record.images]
        assert len(images) == 2 and record.estimates["m_good"].value > 10  # not painted black
        for bad in NAMES:
            assert (f"metric {bad}: " in record.reason) == (bad not in ("m-good", "m-features")), bad
        assert "features of own" in record.reason and "features of short" in record.reason
        assert ("shapes-judge" in record.features) == (record.method != "dense")  # what it is compared with has none
        assert not {"own", "short"} & set(record.features)
    own, other = (run.records[1].estimates["psnr_to_dense"].value for run in (table, plain))
    assert own == pytest.approx(other, rel=1e-4)
    assert "gmacs is the name of another figure" in table.records[0].reason
    summary = (tmp_path / "run" / "tables" / "summary.md").read_text()
    assert "m_good" in summary and "Failed and incomplete points" in summary


def test_names_of_measurements_are_reserved_even_where_a_point_has_none(model: Model) -> None:
    class Own(Metric):
        name = "own"

        def estimates(self, sample: Sample, dense: Sample | None) -> dict[str, Estimate]:
            return {"energy_j": Estimate(value=1.0, n=1, unit="J", convention="made up")}

    images = np.zeros((1, 4, 4, 3), dtype=np.uint8)
    sample = Sample((Case(0, "a", 0),), images)
    assert judged([Own(model)], sample, None, ()) == (
        {}, ["metric own: energy_j is the name of another figure; give it one of its own"]
    )  # fmt: skip
    with pytest.raises(ValueError, match="read-only"):
        sample.images[:] = 1
    images[:] = 1  # whoever made them can
