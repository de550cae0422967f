"""A connection to a Ray cluster, or to one that is started on this machine for a run alone."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from harness.errors import UserError, first_line

ANSWER_S = 300.0
"""How long a cluster may take to let this process in, once its port answers: long, for machines that are busy."""
_OPEN_S = 10.0  # and to answer at its port
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS = 4  # type of the frame that a server of gRPC, as Ray's is, answers the greeting with
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


@contextmanager
def connected(address: str | None, cpus: int, gpus: int) -> Iterator[ModuleType]:
    """Ray, connected while the context lasts. address: None starts a cluster on this machine; cpus, gpus: of that one.

    Raises UserError where Ray is not installed and where nothing answers at the address in time.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no reports to anybody
    try:
        import ray
    except ImportError as error:
        raise UserError(
            f"--executor ray needs Ray ({first_line(error)}): pip install 'dit-efficiency-harness[cluster]'"
        ) from error
    if ray.is_initialized():
        raise UserError("this process is connected to Ray already: call ray.shutdown() first, and give --address")
    before = signal.getsignal(signal.SIGTERM) if _in_main_thread() else None
    try:
        if address is None:
            try:
                ray.init(address="local", num_cpus=cpus, num_gpus=gpus, include_dashboard=False, **_QUIET)
            except Exception as error:
                raise UserError(
                    f"Ray cannot be started on this machine: {first_line(error)}; --executor local does without"
                ) from error
        else:
            _reach(address)
            _init(ray, address)
        if before is not None:
            signal.signal(signal.SIGTERM, before)  # Ray's own would end the program with another code
        try:
            yield ray
        finally:
            ray.shutdown()
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _reach(address: str) -> None:
    """Whether anybody listens there: Ray itself would try for minutes."""
    found = re.fullmatch(r"(?:ray://)?\[?([^\[\]/]+?)\]?:(\d{1,5})", address.strip())
    if found is None or not 0 < int(found[2]) < 65536:
        raise UserError(f"--address expects HOST:PORT or ray://HOST:PORT of a Ray cluster, got {address!r}")
    try:
        with socket.create_connection((found[1], int(found[2])), timeout=_OPEN_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return  # it answers nobody who does not know its certificate
            connection.sendall(_GREETING)
            answer = connection.recv(4)
    except TimeoutError:
        answer = b""
    except OSError as error:
        raise UserError(
            f"no Ray cluster answers at {address} ({error.strerror or error}): start one there with "
            f"`ray start --head --port {found[2]}`, or leave --address out to use this machine alone"
        ) from error
    if len(answer) < 4 or answer[3] != _SETTINGS:
        raise UserError(
            f"nothing answers as a Ray cluster does at {address}: check host and port (6379 of `ray start`, 10001 of "
            "ray://)"
        )


def _init(ray: ModuleType, address: str) -> None:
    """Connect, within a time limit that Ray does not have."""
    failed: list[BaseException] = []

    def init() -> None:
        try:
            ray.init(address=address, **_QUIET)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=init, daemon=True)
    thread.start()
    thread.join(ANSWER_S)
    if thread.is_alive():
        raise UserError(
            f"the Ray cluster at {address} did not let this process in within {ANSWER_S:.0f} s: see what `ray status` "
            "says there; one that asks for tokens takes RAY_AUTH_MODE=token here, too"
        )
    if failed:
        raise UserError(
            f"the Ray cluster at {address} cannot be used: {first_line(failed[0])}; one that asks for tokens takes "
            "RAY_AUTH_MODE=token here, too"
        ) from failed[0]


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
