"""Run folders: they grow, refuse what does not belong, and open without a model; those of schema 1 too."""

from __future__ import annotations

import errno
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from results import RunFolder, Store, StoreError, Table, database, open_run
from results.record import CaseFacts
from results.run_files import TokenMaps
from results.run_folder import ASKED, RunError
from results.taken_over import beside, take

OLD = Path(__file__).parent / "data" / "schema-1.sqlite"
SHARED = {"model": "shapes", "cases": 2, "steps": 4}
CASES = (CaseFacts(prompt="a star", seed=0), CaseFacts(prompt="a ring", seed=1, facts={"masked_share": 0.25}))


def images(value: int) -> np.ndarray:
    return np.full((2, 4, 4, 3), value, np.uint8)


@pytest.fixture
def filled(tmp_path, record):
    """A folder with dense and one method, images and arrays kept."""
    path = tmp_path / "runs" / "first"
    with RunFolder.grow(path, SHARED) as folder:
        for value, (method, ratio) in enumerate((("dense", None), ("tome", 0.2))):
            maps = TokenMaps(np.ones((2, 3, 2, 2)), np.zeros((2, 4, 4, 3), np.uint8), ratios=np.ones((3, 1)))
            folder.put(
                record(
                    method, ratio, sample_key=method, cases=CASES, n_cases=2,
                    images=folder.save_images(images(value), method),
                    features=folder.save_features({"judge": np.eye(2) * value}, method),
                    references=folder.save_references({"judge": np.ones((5, 2))}),
                    token_maps=folder.save_token_maps(maps, method) if ratio else "",
                )
            )  # fmt: skip
    return path


def test_everything_comes_back(filled):
    with RunFolder.open(filled) as folder:
        dense, tome = folder.records()
        assert dense.cases == CASES == tome.cases
        assert (folder.images(tome) == images(1)).all() and folder.complete(tome)
        assert (folder.features(tome, "judge") == np.eye(2)).all() and folder.features(tome, "other") is None
        assert (folder.reference(tome, "judge") == np.ones((5, 2))).all()
        maps = folder.token_maps(tome)
        assert maps is not None and maps.keep.shape == (2, 3, 2, 2) and maps.scores is None
        assert folder.token_maps(dense) is None
        (filled / tome.images[1]).unlink()
        assert folder.images(tome) is None and not folder.complete(tome)


def test_the_cases_are_kept_once(filled):
    with sqlite3.connect(filled / "store.sqlite") as db:
        assert db.execute("SELECT count(*) FROM cases").fetchone() == (1,)


def test_a_folder_grows_and_another_workload_is_refused_with_what_differs(filled, record):
    with RunFolder.grow(filled, dict(SHARED)) as folder:
        folder.put(record("mine", 0.3))
    assert [r.method for r in open_run(filled).records] == ["dense", "tome", "mine"]
    with pytest.raises(RunError, match=r"another workload \(cases: 2 there, 3 asked for; seed: null there, 1 asked"):
        RunFolder.grow(filled, SHARED | {"cases": 3, "seed": 1})


def test_a_point_that_ran_again_under_a_new_version_takes_its_old_record_s_place(filled, record):
    with RunFolder.grow(filled, SHARED) as folder:
        newer = record("tome", 0.2, fingerprint={"weights": "abc", "task": "2"}, started="2025-02-01T00:00:00Z")
        folder.put(newer)
        assert len(folder.store.keys()) == 3
        assert [r.key for r in folder.records()][1] == newer.key
        failed = record("tome", 0.2, fingerprint={"x": "y"}, started="2025-03-01T00:00:00Z", outcome="failed")
        folder.put(failed)  # a usable record stands before one that failed later
        assert [r.key for r in folder.records()][1] == newer.key
        folder.store.set_meta(ASKED, json.dumps([failed.key]))  # but for the one that the last run asked for
        assert [r.key for r in folder.records()][1] == failed.key


def test_finished_points_of_folders_beside_are_taken_over_with_their_images(filled, record):
    other = filled.parent / "second"
    keys = [r.key for r in open_run(filled).records]
    (filled.parent / "junk").mkdir()
    (filled.parent / "junk" / "store.sqlite").write_bytes(b"no database")
    found = beside(other, [*keys, "unknown"])
    assert list(found) == keys and set(found.values()) == {filled.resolve()}
    with RunFolder.grow(other, SHARED) as folder:
        take(folder, found)
    shutil.rmtree(filled)  # nothing of the new folder depends on the old one
    with RunFolder.open(other) as folder:
        assert all(folder.complete(r) for r in folder.records()) and len(folder.records()) == 2
        (folder.path / folder.records()[0].images[0]).unlink()
    assert set(beside(filled, keys)) == {open_run(other).records[1].key}  # what is not whole is not taken


def test_points_come_in_the_order_asked_for_whichever_folders_hold_them(filled, record):
    dense, tome = open_run(filled).records
    earlier = filled.parent / "earlier"
    with RunFolder.grow(earlier, SHARED) as folder:
        take(folder, {tome.key: filled})
    for keys in ([dense.key, tome.key], [tome.key, dense.key]):
        found = beside(filled.parent / "new", keys)
        assert list(found) == keys and len(set(found.values())) == 2
        with RunFolder.grow(filled.parent / f"new-{keys[0][:8]}", SHARED) as folder:
            take(folder, found)
            assert [r.key for r in folder.records()] == keys
        shutil.rmtree(folder.path)


def test_what_is_no_run_is_told(tmp_path):
    for path, said in ((tmp_path / "gone", "no run folder at"), (tmp_path, "is no run folder: it holds no store")):
        with pytest.raises(RunError, match=said):
            open_run(path)
    with pytest.raises(RunError, match="is no run folder"):
        RunFolder.reach(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def old(tmp_path):
    """A folder as the program wrote it under schema 1."""
    path = tmp_path / "old"
    path.mkdir()
    shutil.copy(OLD, path / "store.sqlite")
    return path


def test_a_folder_of_schema_1_opens_read_only_with_what_it_has(old):
    before = (old / "store.sqlite").read_bytes()
    run = open_run(old)
    dense, tome = run.records
    assert (dense.method, tome.method, tome.n_cases, tome.schema_version) == ("dense", "tome", 4, 1)
    assert not tome.cases and not tome.estimates["psnr_to_dense"].values and tome.estimates["gmacs"].value > 0
    assert len(run.pareto("gmacs", "alignment")) == 2 and run.schema_note.startswith(
        "records of schema 1 hold no cases"
    )
    with pytest.raises(StoreError, match="schema version 1, which this program reads but does not write"):
        RunFolder.grow(old, SHARED)
    assert (old / "store.sqlite").read_bytes() == before


def test_a_locked_store_is_waited_for_and_then_says_who(filled, monkeypatch):
    code = (
        "import sys, time; from results import RunFolder\n"
        "folder = RunFolder.reach(sys.argv[1]); folder.store._db.execute('BEGIN IMMEDIATE')\n"
        "print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(filled)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"locked\n"
        monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 1.0)
        began = time.monotonic()
        with pytest.raises(StoreError, match=rf"another process, perhaps process {other.pid} on .*, kept the store"):
            Store(filled / "store.sqlite")
        assert time.monotonic() - began >= 0.9
        other.kill()


def test_training_seeds_are_the_unit_of_a_difference(record, estimate):
    rng = np.random.default_rng(0)
    cases = tuple(CaseFacts(prompt=str(i), seed=i) for i in range(20))

    def made(method, seed, values):
        figure = estimate(float(np.mean(values)), values=tuple(values), role="quality", better="lower")
        settings = {"ratio": 0.3, "seed": seed} if method != "dense" else {}
        ratio = 0.3 if method != "dense" else None
        return record(method, ratio, settings=settings, cases=cases, n_cases=20, estimates={"truth": figure})

    base = rng.normal(size=20)
    fitted = [made("diffcr", seed, base + shift) for seed, shift in enumerate((-0.1, -0.2, -0.3))]
    table = Table([made("dense", 0, base), *fitted, made("uniform", 0, base)])
    found = table.compare_seeds("diffcr 30 %", "dense", "truth")
    assert found.value == pytest.approx(-0.2) and found.seeds == 3
    assert found.low == pytest.approx(-0.2 - 4.3027 * 0.1 / np.sqrt(3), abs=1e-4)
    with pytest.raises(KeyError, match="no point of the name 'difcr 30 %'; there are: dense, diffcr 30 %, uniform"):
        table.compare_seeds("difcr 30 %", "dense", "truth")
    with pytest.raises(ValueError, match="needs two of them at least"):
        table.compare_seeds("uniform 30 %", "dense", "truth")
    with pytest.raises(KeyError, match="3 points"):
        table.find("diffcr")


def test_the_last_run_s_points_are_shown_whatever_is_newer(filled, record):
    newer = record("tome", 0.2, key="other-code", started="2999-01-01T00:00:00+00:00")
    with RunFolder.grow(filled, SHARED) as folder:
        folder.put(newer)
        old = next(one for one in folder.store.records() if one.method == "tome" and one.key != newer.key)
        assert newer in folder.records() and old not in folder.records()
        folder.store.set_meta(ASKED, json.dumps([old.key]))
        assert old in folder.records() and newer not in folder.records()


def test_a_file_that_cannot_be_written_is_one_line_and_leaves_nothing(filled, monkeypatch):
    def full(*_args, **_more):
        raise OSError(errno.ENOSPC, "No space left on device")

    with RunFolder.grow(filled, SHARED) as folder:
        monkeypatch.setattr(np, "save", full)
        with pytest.raises(StoreError, match="cannot be written: No space left on device; free some space"):
            folder.save_features({"judge": np.eye(2)}, "new")
        monkeypatch.setattr(Image.Image, "save", full)
        with pytest.raises(StoreError, match="No space left on device"):
            folder.save_images(images(1), "new")
        assert not list(filled.rglob("*.part"))


def test_pictures_that_are_cut_off_are_not_sound(filled):
    with RunFolder.open(filled) as folder:
        dense = folder.records()[0]
        assert folder.sound(dense)
        whole = (filled / dense.images[0]).read_bytes()
        for cut in (b"", whole[: len(whole) // 2]):
            (filled / dense.images[0]).write_bytes(cut)
            assert folder.complete(dense) and not folder.sound(dense)
