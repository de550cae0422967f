"""Old names of the public interface work for one release, and say what they are called now."""

import warnings
from abc import ABC, abstractmethod
from typing import Any

import pytest

import harness.method
from harness import renamed
from harness.attach import check
from harness.backbones import following
from harness.backbones.base import Backbone
from harness.compose import refusal
from harness.method import CalibrationPass, Method


class Base(renamed.Renamed, ABC, old_names={"rank": "order", "reached": "ratio"}):
    order = 0

    def ratio(self) -> str:
        return "base"

    @abstractmethod
    def attach(self) -> None: ...


class New(Base):
    order = 2

    def ratio(self) -> str:
        return f"new, {super().ratio()}"

    def attach(self) -> None: ...


def test_new_names_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        class Both(New):
            rank = order = 3

        assert (New.order, New().order, New().ratio(), Both.order) == (2, 2, "new, base", 3)
    with pytest.raises(TypeError, match="abstract"):
        Base()  # type: ignore[abstract]


def test_a_subclass_with_old_names_is_used_by_the_new_ones() -> None:
    with pytest.warns(DeprecationWarning, match=r"Old\.(rank is now order|reached is now ratio)") as seen:

        class Old(New):
            rank = 5

            def reached(self) -> str:
                return f"old, {super().reached()}"  # type: ignore[misc]

    assert len(seen) == 2 and {one.filename for one in seen} == {__file__}  # where the class is written

    class Further(Old):
        def ratio(self) -> str:
            return f"further, {super().ratio()}"

    assert Old.order == Old().order == Further.order == 5
    with pytest.warns(DeprecationWarning, match="reached is now ratio") as seen:
        assert Further().ratio() == "further, old, new, base"
    assert [one.filename for one in seen] == [__file__]


def test_old_names_are_read_and_set() -> None:
    one: Any = New()
    with pytest.warns(DeprecationWarning, match="New.rank is now order") as seen:
        assert (one.rank, New.rank, one.reached()) == (2, 2, "new, base")  # type: ignore[attr-defined]
        one.rank = 7
        assert one.order == one.rank == 7 and New.order == 2
    assert {one.filename for one in seen} == {__file__}


def test_arguments_and_names_of_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    @renamed.old_keywords(along="full")
    def watch(*, full: bool = False) -> bool:
        return full

    assert watch(full=True)
    with pytest.warns(DeprecationWarning, match="argument along is now full"):
        assert watch(along=True)  # type: ignore[call-arg]
    attribute = renamed.module_attributes(__name__, {"Former": "New"})
    with pytest.warns(DeprecationWarning, match="Former is now New"):
        assert attribute("Former") is New
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        attribute("other")


def test_plugins_of_the_release_before_run() -> None:
    with pytest.warns(DeprecationWarning) as seen:

        class Plugin(Method):
            name = "plugin"
            needs = frozenset({"attention maps"})
            rank, lasting, tabled, host = 1, True, True, frozenset({"ratios"})
            compresses = False

            def attach(self, backbone: Any, state: Any = None) -> Any: ...

            def reached(self, state: Any) -> float:
                return 0.5

            def cost_state(self, backbone: Any, table: Any = None) -> None: ...

        class Family(Backbone):
            classes = frozenset({"Net"})
            offers = frozenset({"attention maps"})
            placed, halves = True, False

            def apart(self, *given: Any) -> Any:
                return "apart"

            def unchanged(self, *given: Any) -> Any: ...

        class Other(Method):
            name = "other"

    assert len(seen) == 7 + 5 and {one.filename for one in seen} == {__file__}
    assert Plugin.requires == {"attention maps"} and Plugin.attach_order == 1 and Plugin.cpu_tensors == {"ratios"}
    assert Plugin.slow_to_attach and Plugin.per_layer_ratios and Plugin().effective_ratio(None) == 0.5
    assert Plugin().dummy_state(None) is None  # type: ignore[arg-type]
    assert not check(Plugin, Family) and not refusal(Plugin, Other)
    assert Family.uses_positions and not Family.batched_cfg and Family.split_streams(None) == "apart"  # type: ignore
    with pytest.warns(DeprecationWarning, match="method.Watch is now CalibrationPass"):
        assert harness.method.Watch is CalibrationPass  # type: ignore[attr-defined]
    with pytest.warns(DeprecationWarning, match="following.follow is now track_sampler"):
        assert following.follow is following.track_sampler  # type: ignore[attr-defined]
