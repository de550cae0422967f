"""A store that cannot be used is no fault of the method that ran."""

from __future__ import annotations

from typing import Any

import pytest

from harness.executors import isolated
from harness.executors.ray_worker import Refused, Worker
from results.store import StoreError


def test_a_worker_whose_disk_is_full_gives_its_point_back(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker.__new__(Worker)
    worker._name = "there, process 7"

    def full(*_: Any) -> None:
        raise StoreError("/tmp/x/store.sqlite: the disk is full. Free some space")

    monkeypatch.setattr(worker, "_run", full)
    found = worker.run(0, {})
    assert isinstance(found, Refused) and found.reason.startswith("there, process 7: /tmp/x/store.sqlite: the disk")


def test_a_child_that_cannot_use_the_store_ends_the_run_and_fails_no_point() -> None:
    said = "some warning\nthe store does not serve: run/store.sqlite: the disk is full.\n"
    with pytest.raises(StoreError, match=r"^run/store\.sqlite: the disk is full"):
        isolated._last_words(1, said)
    assert isolated._last_words(1, "the point failed: ValueError: no").endswith("ValueError: no")
