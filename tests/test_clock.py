"""What `calibrate-clock` measures, keeps, and hands to records."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import harness
from harness import clock
from harness.cli import app
from harness.measure import noise_floor


def test_a_calibrated_machine_stands_in_records(
    tiny_folder: Path, small: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["calibrate-clock", "--model", str(tiny_folder), "--sessions", "10", "--rounds", "2"]
    said = CliRunner().invoke(app, given)
    assert said.exit_code == 0, said.output
    (floor,) = json.loads((tmp_path / noise_floor.FILE).read_text()).values()
    assert floor > 0 and f"within {100 * floor:.1f} % of 1 says nothing here" in said.output
    (record,) = harness.run(["dense"], out=tmp_path / "run", **{**small, "metrics": ["paired"]}).records
    threads = record.environment["threads"]
    name = noise_floor.hardware(record.environment)
    assert name == record.hardware and name.endswith(f"{threads} threads")
    if name in json.loads((tmp_path / noise_floor.FILE).read_text()):  # pytest may have changed the threads between
        assert float(record.environment[noise_floor.FLOOR]) == pytest.approx(floor, abs=1e-4)


def test_floors_of_several_machines_stand_side_by_side(tmp_path: Path) -> None:
    file = tmp_path / "runs" / "clock.json"
    one, other = {"device": "a", "threads": "2"}, {"device": "b", "threads": "2"}
    assert noise_floor.known(one, file) == {}
    noise_floor.keep(one, 0.01, file)
    noise_floor.keep(other, 0.05, file)
    noise_floor.keep(one, 0.02, file)
    assert noise_floor.known(one, file) == {noise_floor.FLOOR: "0.0200"}
    assert noise_floor.known(other, file) == {noise_floor.FLOOR: "0.0500"}
    for damaged in ("[1, 2", "[1]", '{"a": {}}', '{"a": 1' + "0" * 400 + "}"):
        file.write_text(damaged)
        assert noise_floor.known(one, file) == {}


def test_a_calibration_knows_equal_from_unequal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions of known seconds: nine of ten hold 1, and the floor is the largest distance but for the last 5 %."""

    class Known:
        def __init__(self, ratio: float) -> None:
            self.seconds = [[1.0] * 6, [ratio * (1 + 0.001 * (pair - 2.5)) for pair in range(6)]]

        def __enter__(self) -> "Known":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def block(self) -> int:
            return 0

    ratios = iter([1.0] * 9 + [1.1])
    monkeypatch.setattr(clock.cost, "pairs", lambda *_: Known(next(ratios)))

    class On:
        typical = (None, "")

    found = clock.calibrate(On(), None, 10, 6)  # type: ignore[arg-type]
    assert (found.sessions, found.inside) == (10, 0.9)
    assert found.floor == pytest.approx(0.055, abs=0.001) and found.width == pytest.approx(0.005)
