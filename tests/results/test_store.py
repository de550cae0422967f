"""The store keeps what it is given, survives a kill, and says what to do where it cannot be read."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from results import Store, StoreError
from results.record import SCHEMA_VERSION

ROOT = Path(__file__).resolve().parents[2]

WRITER = """
import sys
from results import Record, Store
with Store(sys.argv[1]) as store:
    for i in range(int(sys.argv[3])):
        store.put(Record(key=f"{sys.argv[2]}-{i:08d}", method="dense", task="t", model="m", device="cpu",
                         dtype="float32", steps=1, n_cases=1, outcome="ok", reason="x" * 5000, started="now"))
        print(i, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "store.sqlite"


def writer(path: Path, name: str, count: int) -> subprocess.Popen[bytes]:
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-c", WRITER, str(path), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)


def test_a_record_comes_back_as_it_was(path, record, estimate):
    figures = {
        "psnr": estimate(float("inf"), unit="dB", low=0.1 + 0.2),
        "kid": estimate(1e-17, replicates=(1 / 3, float("-inf"))),
    }
    written = record("tome", 0.2, estimates=figures, samples={"latency_s": [0.1, 2.5e-9]}, reason='"quotes" — ünïcode')
    with Store(path) as store:
        store.put(written)
    with Store(path) as store:
        assert store.get(written.key) == written
        assert store.get("no such key") is None


def test_nan_comes_back_as_nan(path, record, estimate):
    with Store(path) as store:
        store.put(record(estimates={"kid": estimate(float("nan"))}))
        (read,) = store.records()
    assert read.estimates["kid"].value != read.estimates["kid"].value


def test_keys_by_outcome_and_records_in_order(path, record):
    a, b = record("a"), record("b", outcome="failed", reason="out of memory")
    c = record("c")
    with Store(path) as store:
        for each in (c, b, a):
            store.put(each)
        assert store.keys() == {a.key, b.key, c.key}
        assert store.keys("ok") == {a.key, c.key}
        assert store.keys("failed") == {b.key}
        assert [r.method for r in store.records()] == ["c", "b", "a"]
        assert [r.method for r in store.records([a.key, "not run yet", c.key])] == ["a", "c"]
        assert store.records([]) == []


def test_a_failed_record_is_replaced_by_a_later_try(path, record):
    with Store(path) as store:
        store.put(record("a", outcome="failed", reason="out of memory"))
        store.put(record("b"))
        store.put(record("a"))
        assert [(r.method, r.outcome) for r in store.records()] == [("a", "ok"), ("b", "ok")]
        assert store.keys("failed") == set()


def test_meta(path):
    with Store(path) as store:
        assert store.get_meta("name") is None
        store.set_meta("name", "first")
        store.set_meta("name", "second")
    with Store(path) as store:
        assert store.get_meta("name") == "second"


def test_settings_that_json_cannot_hold_are_refused(path, record):
    with Store(path) as store:
        with pytest.raises(ValueError, match="serialize"):
            store.put(record(settings={}).model_copy(update={"settings": {"x": object()}}))
        assert store.keys() == set()


def test_a_killed_writer_leaves_a_readable_store(path):
    process = writer(path, "killed", 1_000_000)
    assert process.stdout is not None
    with process, process.stdout:
        told = [process.stdout.readline() for _ in range(20)]
        time.sleep(0.05)  # somewhere in the middle of a write
        process.kill()
        told += process.stdout.read().splitlines()
    assert process.returncode == -signal.SIGKILL
    with Store(path) as store:
        records = store.records()  # every one is validated
        assert {f"killed-{int(line):08d}" for line in told} <= {r.key for r in records}
        assert all(r.reason == "x" * 5000 for r in records)
        store.put(records[0])
        assert store._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_two_processes_create_and_write_one_store(path):
    writers = [writer(path, name, 40) for name in ("one", "two")]
    outputs = [process.communicate(timeout=60) for process in writers]
    assert [process.returncode for process in writers] == [0, 0], outputs
    with Store(path) as store:
        assert store.keys() == {f"{name}-{i:08d}" for name in ("one", "two") for i in range(40)}
        assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_another_schema_version_is_refused_with_the_remedy(path):
    Store(path).close()
    other = sqlite3.connect(path)
    other.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    other.close()
    with pytest.raises(
        StoreError, match=f"schema version {SCHEMA_VERSION + 1}.*reads schema {SCHEMA_VERSION + 1}"
    ) as refused:
        Store(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("content", [b"method,ratio\n" * 1000, b"\x00" * 4096, b"SQLite format 3\x00" + b"\xff" * 4080])
def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "store.sqlite"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="Move the file away") as refused:
        Store(path)
    assert str(path) in str(refused.value)
    assert path.read_bytes() == content


def test_a_database_of_something_else_is_refused(tmp_path):
    path = tmp_path / "other.sqlite"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE songs (title TEXT)")
    other.close()
    with pytest.raises(StoreError, match="schema version 0|something else"):
        Store(path)


def test_a_folder_and_a_path_below_a_file_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "store.sqlite"):
        with pytest.raises(StoreError, match="cannot be opened"):
            Store(path)


@pytest.mark.parametrize("body", ["{", "{}", '{"key": "12345678", "colour": "red"}'])
def test_an_unreadable_row_is_named(path, record, body):
    with Store(path) as store:
        store.put(record("good"))
        bad = record("bad")
        store._db.execute("INSERT INTO record VALUES (?, 'ok', '', ?)", (bad.key, body))
        assert store.get(record("good").key) == record("good")
        with pytest.raises(StoreError, match="Move the file away") as refused:
            store.records()
    assert str(path) in str(refused.value) and bad.key in str(refused.value)


def test_a_row_under_a_foreign_key_is_refused(path, record):
    with Store(path) as store:
        store.put(record("a"))
        store._db.execute("UPDATE record SET key = 'something else'")
        with pytest.raises(StoreError, match="something else holds the record"):
            store.records()


def test_damaged_pages_are_told(path, record):
    with Store(path) as store:
        for i in range(50):
            store.put(record(f"m{i}", reason="x" * 2000))
    content = bytearray(path.read_bytes())
    content[8192:] = b"\x5a" * (len(content) - 8192)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="Move the file away"), Store(path) as store:
        store.records()


def test_a_full_disk_is_told_and_earlier_records_stay(path, record):
    with Store(path) as store:
        store.put(record("small"))
        pages = store._db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count = {pages}")  # SQLite then reports the same as a full disk does
        with pytest.raises(StoreError, match="disk is full"):
            store.put(record("large", reason="x" * 100_000))
        assert [r.method for r in store.records()] == ["small"]


def test_a_locked_store_is_told(path, record, monkeypatch):
    monkeypatch.setattr("results.database.BUSY_TIMEOUT_S", 0.05)
    with Store(path) as first, Store(path) as second:
        first._db.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"):
            second.put(record())
        first._db.execute("ROLLBACK")


def test_a_closed_store_says_so(path):
    store = Store(path)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.keys()


def test_a_failed_try_replaces_nothing_that_was_measured(path, record):
    measured, failed = record("tome", 0.2, outcome="incomplete"), record("tome", 0.2, outcome="failed", reason="no")
    with Store(path) as store:
        store.put(measured)
        store.put(failed)
        assert store.get(measured.key) == measured
        whole = record("tome", 0.2)
        store.put(whole)
        for lesser in (measured, failed):  # its images were made anew, and this time a metric could not judge them
            store.put(lesser)
        assert store.get(measured.key) == whole
        again = record("tome", 0.2, seconds=3.0)
        store.put(again)
        assert store.get(measured.key) == again


@pytest.mark.parametrize("ends", [["-wal"], ["-wal", "-shm"]], ids=["copied", "as a killed writer leaves it"])
def test_records_that_wait_in_the_log_are_read_where_nothing_can_be_written(path, record, tmp_path, ends):
    """On a real read-only mount, which root may not write to either; a machine that forbids such mounts skips it."""
    there = tmp_path / "there"
    there.mkdir()
    mount = f"mount --bind {there} {there} && mount -o remount,ro,bind {there}"
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "sh", "-c", mount], check=False).returncode:
        pytest.skip("no mounts in a namespace of one's own here")
    with Store(path) as store:
        store.put(record("tome", 0.2))
        waiting = path.with_name("store.sqlite-wal")
        assert waiting.stat().st_size > 0
        for end in ("", *ends):
            shutil.copy(path.with_name(path.name + end), there)
    code = (
        "import sys; from pathlib import Path; from results.store import Store\n"
        "folder = Path(sys.argv[1])\n"
        "try: (folder / 'x').touch()\n"
        "except OSError: print(len(Store(folder / 'store.sqlite', read_only=True).records()))"
    )
    command = f"{mount} && exec {shlex.quote(sys.executable)} -c {shlex.quote(code)} {there}"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.stdout == "1\n", done.stdout + done.stderr


def test_what_was_raised_may_hold_anything(path, record):
    odd = record("tome", 0.2, outcome="failed", reason="caf\udce9.png is missing", traceback="caf\udce9")
    with Store(path) as store:
        store.put(odd)
        assert store.get(odd.key).reason == "caf\\udce9.png is missing"
