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

_OPEN_S = 10.0  # how long an address may take to answer; Ray itself tries for minutes
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS = 4  # type of the frame that a server of gRPC, as Ray's is, answers the greeting with
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


@contextmanager
def connected(address: str | None, cpus: int, gpus: int) -> Iterator[ModuleType]:
    """Ray, connected while the context lasts. address: None starts a cluster on this machine; cpus, gpus: of that one.

    Raises UserError where Ray is not installed and where nothing answers at the address in time.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no reports to anybody
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would have workers yield to all else that runs
    try:
        import ray
    except ImportError as error:
        raise UserError(
            f"--executor ray needs Ray ({first_line(error)}): pip install 'dit-efficiency-harness[cluster]'"
        ) from error
    if ray.is_initialized():
        raise UserError("this process is connected to Ray already: call ray.shutdown() first, and give --address")
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        if address is None:
            _start(ray, cpus, gpus)
        else:
            _join(ray, address)
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)  # Ray's own would end the program with another code
    try:
        yield ray
    finally:
        ray.shutdown()


def _start(ray: ModuleType, cpus: int, gpus: int) -> None:
    try:
        ray.init(address="local", num_cpus=cpus, num_gpus=gpus, include_dashboard=False, **_QUIET)
    except Exception as error:
        raise UserError(
            f"Ray cannot be started on this machine: {first_line(error)}; --executor local does without"
        ) from error


def _join(ray: ModuleType, address: str) -> None:
    _reach(address)
    try:
        ray.init(address=address, **_QUIET)
    except Exception as error:
        raise UserError(
            f"the Ray cluster at {address} cannot be used: {first_line(error)}. Where `ray start` found a token "
            "(~/.ray/auth_token or RAY_AUTH_TOKEN), the same one is needed here, and RAY_AUTH_MODE=token"
        ) from error


def _reach(address: str) -> None:
    """Whether a server of Ray's kind answers there."""
    found = re.fullmatch(r"\[?([^\[\]/]+?)\]?:(\d{1,5})", address)
    if found is None or not 0 < int(found[2]) < 65536:
        raise UserError(f"--address expects HOST:PORT of a Ray cluster, got {address!r}")
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
            f"nothing answers as a Ray cluster does at {address}: check host and port (6379, unless `ray start` was "
            "given another)"
        )
