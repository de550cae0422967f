"""A cluster as it is asked for, without Ray: options, the room on it, and what answers at an address."""

import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support import command

from harness.errors import UserError
from harness.executors import ray_cluster
from harness.executors.cluster import Cluster, of_options
from harness.executors.ray_pool import _room


@pytest.mark.parametrize(
    "options, said",
    [
        (["--workers", "0"], "--workers expects 1 or more, got 0"),
        (["--gpus-per-worker", "1.5"], "--gpus-per-worker expects a share of one GPU"),
        (["--gpus-per-worker", "nan"], "--gpus-per-worker expects a share of one GPU"),
        (["--gpus-per-worker", "1"], "goes with --device cuda"),
        (["--address", "nowhere"], "--address expects HOST:PORT"),
        (["--address", "ray://127.0.0.1:1"], "--address expects HOST:PORT"),
        (["--address", "127.0.0.1:1"], "no Ray cluster answers at 127.0.0.1:1"),
        (["--isolate"], "--isolate is of the local executor"),
        (["--executor", "local", "--workers", "2"], "--workers needs --executor ray"),
    ],
)
def test_options_that_are_no_good(
    options: list[str], said: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    if "--address" in options:
        pytest.importorskip("ray", reason="Ray is an extra: pip install '.[cluster]'")
    asked = ["run", "--model", str(tiny_folder), "--methods", "random", "--cases", "2", "--out", str(tmp_path / "run")]
    assert command(monkeypatch, *asked, "--executor", "ray", *options) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not (tmp_path / "run" / "store.sqlite").exists()


def test_devices_and_executors() -> None:
    assert (
        Cluster().gpus("cpu") == 0 and Cluster().gpus("cuda") == 1 and Cluster(gpus_per_worker=0.5).gpus("cuda") == 0.5
    )
    with pytest.raises(UserError, match="give --device cuda, not cuda:1"):
        Cluster().gpus("cuda:1")
    with pytest.raises(UserError, match="needs GPUs"):
        Cluster(gpus_per_worker=0).gpus("cuda")
    with pytest.raises(UserError, match="unknown executor 'slurm'"):
        of_options("slurm", None, None, None)
    assert of_options("local", None, None, None) is None


def test_room() -> None:
    assert _room({"CPU": 9.0}, None, 2, 0) == 4 and _room({"CPU": 9.0, "GPU": 2.0}, None, 2, 0.5) == 4
    assert _room({"CPU": 9.0, "GPU": 2.0}, 2, 2, 1) == 2
    with pytest.raises(UserError, match="3 workers of 2 processors.* and 1 GPUs do not fit"):
        _room({"CPU": 9.0, "GPU": 2.0}, 3, 2, 1)
    with pytest.raises(UserError, match="1 workers of 4 processors"):
        _room({"CPU": 2.0}, None, 4, 0)


def test_without_ray(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with (
        pytest.raises(UserError, match=r"needs Ray .*pip install 'dit-efficiency-harness\[cluster\]'"),
        ray_cluster.connected(None, 1, 0),
    ):
        pass  # fmt: skip


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_something_else_at_the_address(says: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "_OPEN_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

        def serve() -> None:
            with server.accept()[0] as connection:
                connection.sendall(says)
                time.sleep(2)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(UserError, match=f"nothing answers as a Ray cluster does at {address}"):
            ray_cluster._reach(address)
        thread.join()
