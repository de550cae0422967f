"""Points on the workers of a real Ray cluster, which the tests start and stop: what comes back, and what becomes of it
when workers and the owner are killed."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

import harness
from harness import registry
from harness.executors.execute import Listener
from results.record import Record
from results.store import Store, StoreError

# Read when Ray is imported: the clusters of these tests are for nobody else on this machine.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_worker_niceness": "0"}
pytest.importorskip("ray", reason="Ray is an extra: pip install '.[cluster]'")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent

PLUGIN = """
import os, signal, time
from pathlib import Path
from methods.random_drop import RandomDrop
import harness

FOLDER = Path({folder!r})

@harness.methods.register("killed-once")
class KilledOnce(RandomDrop):
    def attach(self, backbone, state=None):
        if not (FOLDER / self.name).exists():
            (FOLDER / self.name).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().attach(backbone, state)

@harness.methods.register("helper-killed")
class HelperKilled(KilledOnce):
    pass

@harness.methods.register("sleeps")
class Sleeps(RandomDrop):
    def attach(self, backbone, state=None):
        time.sleep(100_000)
"""
NAMES = ("killed-once", "helper-killed", "sleeps")


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """The address of a cluster on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=4", "--disable-usage-stats",
               f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false",
               "--object-store-memory=100000000"]  # fmt: skip
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        end = time.monotonic() + 300
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < end
                time.sleep(0.2)
        try:
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()  # with all that it has started
            process.wait(60)


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "kills.py"
    path.write_text(PLUGIN.format(folder=str(tmp_path)))
    yield path
    for name in NAMES:
        registry.methods.forget(name)


def test_workers_make_what_this_process_makes_though_some_are_killed(
    head: str, plugin: Path, small: dict[str, Any], tmp_path: Path
) -> None:
    """Two for four points: images of dense and of the last point are made by both. One is killed that runs a point
    alone, one that makes some of the last one's images."""
    torch.set_num_threads(1)
    asked = small | {
        "methods": "tome,killed-once,helper-killed", "steps": 3, "metrics": "alignment,paired,kid", "cases": 5,
        "batch": 1, "plugins": [plugin],
    }  # fmt: skip
    said: list[str] = []

    class Hears(Listener):
        work = 0

        def say(self, line: str) -> None:
            said.append(line)

        def progress(self, what: str, work: int) -> None:
            self.work += work

        def begin(self, work: int) -> None:
            self.work -= work

    hears = Hears()
    there = harness.run(
        **asked, out=tmp_path / "there" / "run", executor="ray", address=head, workers=2, listener=hears
    )
    assert sorted(line.partition(";")[0] + line.partition(";")[2] for line in said) == [
        "helper-killed 20 %: its worker ended its images are made again by another one",
        "killed-once 20 %: its worker ended the point runs again on another one",
    ]
    assert hears.work == 0  # as much as was announced
    here = harness.run(**asked, out=tmp_path / "here" / "run")
    assert [r.outcome for r in there.records] == ["ok"] * 4
    split = {record.method for record in there.records if "image_workers" in record.environment}
    assert {"dense", "helper-killed"} <= split and "tome" not in split
    for one, other in zip(here.records, there.records, strict=True):
        _same(here, one, there, other)
        assert other.environment["worker"] and one.hardware == other.hardware
    with Store(tmp_path / "there" / "run" / "store.sqlite", read_only=True) as store:
        assert len(store.records()) == 4


def test_a_point_that_does_not_end(head: str, plugin: Path, small: dict[str, Any], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    asked = small | {"steps": 3, "metrics": "alignment", "plugins": [plugin], "out": tmp_path / "run"}
    harness.run(**asked | {"methods": "random"})
    grown = harness.run(**asked | {"methods": "sleeps"}, executor="ray", address=head, workers=1, point_timeout=3)
    (failed,) = grown.failed()
    assert failed.method == "sleeps" and failed.reason == "the point took longer than 3 s (--point-timeout)"


def test_a_killed_owner_s_run_goes_on(small: dict[str, Any], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    out = tmp_path / "there" / "run"
    command = [sys.executable, "-m", "harness", "run", "--model", str(small["model"]), "--methods", "tome,random",
               "--ratios", "0.2", "--cases", "2", "--rounds", "2", "--steps", "3", "--metrics", "alignment",
               "--out", str(out), "--executor", "ray", "--workers", "1"]  # fmt: skip
    own = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    told = tmp_path / "told"
    with open(told, "w") as handle:
        first = subprocess.Popen(command, env=own, stdout=handle, stderr=handle)
    end = time.monotonic() + 600
    while not _keys(out):
        assert first.poll() is None and time.monotonic() < end, told.read_text()
        time.sleep(0.02)
    workers = [one for one in psutil.Process(first.pid).children(recursive=True) if "ray::Worker" in str(one.cmdline())]
    assert len(workers) == 1
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not psutil.wait_procs(workers, timeout=60)[1]  # agents of Ray's own take longer
    kept = _keys(out)
    assert 0 < len(kept) < 3
    done = subprocess.run(command, env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    here = harness.run(
        **small | {"methods": "tome,random", "steps": 3, "metrics": "alignment"}, out=tmp_path / "here" / "run"
    )
    there = harness.open_run(out)
    assert _keys(out)["dense"] == kept["dense"] and len(there.records) == 3  # dense was not run again
    for one, other in zip(here.records, there.records, strict=True):
        _same(here, one, there, other)


def _keys(out: Path) -> dict[str, float]:
    """How long each method's point took, of those that are kept."""
    try:
        with Store(out / "store.sqlite", read_only=True) as store:
            return {record.method: record.seconds for record in store.records()}
    except StoreError:
        return {}


def _same(here: Any, one: Record, there: Any, other: Record) -> None:
    """One point of two runs, timings apart."""
    assert (one.key, one.sample_key, one.cases, one.files()) == (
        other.key,
        other.sample_key,
        other.cases,
        other.files(),
    )
    assert np.array_equal(here.images(one), there.images(other))
    timed = {name for name in one.estimates if name.startswith(("latency_", "peak_", "throughput_"))}
    assert set(one.estimates) - set(other.estimates) <= {"throughput_images_s"}
    for name in set(one.estimates) - timed:
        assert one.estimates[name] == other.estimates[name], name
    for path in (path for path in one.files() if path.endswith(".npy")):
        assert (here.folder / path).read_bytes() == (there.folder / path).read_bytes(), path
