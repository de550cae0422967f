"""How a run ends that does not end by itself: interrupts, kills, and methods that end the program or do not end at all.
Each in a process of its own, as a user has it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support import command as main

from harness import registry
from harness.executors import marks
from results import Store
from results.record import Record

PLUGIN = """
import ctypes, os, sys, time
from contextlib import contextmanager
from pathlib import Path
import harness
from harness.method import Method, RatioSettings

def ends(name, end):
    class Ends(Method):
        Settings = RatioSettings
        @contextmanager
        def attach(self, backbone, state=None):
            (Path(__file__).parent / "begun").write_text(str(os.getpid()))
            end()
            yield
    harness.methods.register(name)(Ends)

def babble():
    os.write(1, b"\\xff\\xfe out\\n")
    os.write(2, b"\\xff\\xfe last words \\x80\\n")
    os._exit(3)

ends("exits", lambda: sys.exit("enough"))
ends("leaves", lambda: os._exit(7))
ends("faults", lambda: ctypes.string_at(0))
ends("sleeps", lambda: time.sleep(100_000))
ends("babbles", babble)
"""
NAMES = ("exits", "leaves", "faults", "sleeps", "babbles")


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "ends.py"
    path.write_text(PLUGIN)
    yield path
    for name in NAMES:
        registry.methods.forget(name)
    sys.modules.pop("harness_plugin_ends", None)


def argv(small: dict[str, object], tmp_path: Path, methods: str, *more: str) -> list[str]:
    shared = ["--model", str(small["model"]), "--cases", "2", "--rounds", "2", "--metrics", "paired"]
    named = ["--methods", methods, "--ratios", "0.2", "--plugin", str(tmp_path / "ends.py")]
    return ["run", *shared, *named, "--out", str(tmp_path / "run"), *more]


def started(arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "harness", *arguments]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # which are part of a point's key
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=os.environ | threads, **streams)


def records(tmp_path: Path) -> dict[str, Record]:
    with Store(tmp_path / "run" / "store.sqlite", read_only=True) as store:
        return {record.method: record for record in store.records()}


def begun(tmp_path: Path, process: subprocess.Popen[str]) -> int:
    """The process that runs the point that sleeps."""
    path = tmp_path / "begun"
    while not (path.exists() and path.read_text()):
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.05)
    return int(path.read_text())


def gone(process: int) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        state = Path(f"/proc/{process}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_method_that_ends_the_program_costs_one_point(
    small: dict[str, object], tmp_path: Path, plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = argv(small, tmp_path, "exits,leaves,tome")
    died = started(command)
    died.communicate()
    assert died.returncode == 7
    found = records(tmp_path)
    assert found["dense"].outcome == "ok" and "tome" not in found
    assert found["exits"].reason == "SystemExit: it tried to end the program (enough)"

    for _ in range(2):  # also when failed points are tried again
        assert main(monkeypatch, *command) == 1
        found = records(tmp_path)
        assert found["tome"].outcome == "ok" and found["leaves"].outcome == "failed"
        assert found["leaves"].reason.startswith(
            "the process was ended by os._exit(7) while this point ran; give --iso"
        )

    assert main(monkeypatch, *argv(small, tmp_path, "leaves", "--isolate")) == 1
    assert records(tmp_path)["leaves"].reason.startswith("the point's process ended with code 7")
    assert not (tmp_path / "run" / "running").exists()


def test_a_native_fault_is_not_met_twice(
    small: dict[str, object], tmp_path: Path, plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    died = started(argv(small, tmp_path, "faults,tome"))
    died.communicate()
    assert died.returncode == -signal.SIGSEGV
    assert main(monkeypatch, *argv(small, tmp_path, "faults,tome")) == 1
    found = records(tmp_path)
    assert "ended by segmentation fault while" in found["faults"].reason and found["tome"].outcome == "ok"


def test_isolated_children_that_do_not_end_or_speak_no_utf_8(
    small: dict[str, object], tmp_path: Path, plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(monkeypatch, *argv(small, tmp_path, "dense")) == 0
    assert main(monkeypatch, *argv(small, tmp_path, "babbles", "--isolate")) == 1
    assert main(monkeypatch, *argv(small, tmp_path, "sleeps", "--point-timeout", "8")) == 1
    found = records(tmp_path)
    assert found["babbles"].reason == "the point's process ended with code 3: �� last words �"
    assert found["sleeps"].reason == "the point took longer than 8 s (--point-timeout)"
    assert gone(int((tmp_path / "begun").read_text()))


@pytest.mark.parametrize(
    ("sent", "code", "said"), [(signal.SIGINT, 130, "interrupted: "), (signal.SIGTERM, 143, "terminated: ")]
)
def test_an_interrupt_is_one_line_and_leaves_no_mark(
    small: dict[str, object], tmp_path: Path, plugin: Path, sent: signal.Signals, code: int, said: str
) -> None:
    process = started(argv(small, tmp_path, "sleeps"))
    begun(tmp_path, process)
    process.send_signal(sent)
    _, error = process.communicate()
    assert process.returncode == code
    last = error.strip().splitlines()[-1]
    assert last == f"{said}finished points are kept; the same command goes on from here"
    assert "Traceback" not in error and not (tmp_path / "run" / "running").exists()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_no_isolated_child_outlives_its_parent(
    small: dict[str, object], tmp_path: Path, plugin: Path, sent: signal.Signals
) -> None:
    process = started(argv(small, tmp_path, "sleeps", "--isolate"))
    child = begun(tmp_path, process)
    assert child != process.pid
    os.kill(process.pid, sent)
    _, error = process.communicate()
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGKILL: -9}[sent]
    assert "Traceback" not in error
    assert gone(child)


def test_a_killed_process_is_no_fault_of_the_point_unless_it_happens_again(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from harness.executors import marks\n"
        "with marks.marked(Path(sys.argv[1]), 'key'): os.kill(os.getpid(), 9)"
    )
    for _ in range(marks.DEATHS):
        assert not marks.refusal(tmp_path, "key")
        subprocess.run([sys.executable, "-c", code, str(tmp_path)])
    assert f"was killed {marks.DEATHS} times" in marks.refusal(tmp_path, "key")
    assert not marks.refusal(tmp_path, "another key")
    marks.forget(tmp_path, "key")
    assert not marks.refusal(tmp_path, "key") and not list(tmp_path.iterdir())
