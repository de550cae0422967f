"""All checks of one method: on every family, and with every other method."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch

from harness import attach, registry
from harness.compose import method_class, refusal
from harness.contract.checks import CHECKS, Broken, NotApplicable
from harness.contract.report import Finding, Report
from harness.contract.subject import Subject, build
from harness.errors import UserError, failure_reason
from harness.leftovers import Snapshot
from harness.method import Method
from harness.models import tiny

_SLOW = {"compile": "compiling takes minutes"}  # as partners
_PAIR = "composition"
Progress = Callable[[str], None]


def check_method(
    name: str,
    settings: dict[str, Any] | None = None,
    *,
    families: Iterable[str] = (),
    pairs: bool = True,
    progress: Progress = lambda _: None,
) -> Report:
    """Whether a registered method keeps the contract of methods.

    settings: its own, by default those of its class at ratio 0.3. families: of backbones, by default all that have a
    tiny model (`harness.models.tiny`). pairs: whether it is also composed with every other method. progress: called
    with what is checked next. Raises UserError for an unknown method or family, and for settings that it does not take.
    """
    cls, given = method_class(name), settings or {}
    _valid(cls, given)
    found: list[Finding] = []
    runs_on: tiny.Tiny | None = None
    for family in families or tiny.names():
        progress(f"{name} on {family}")
        subject = Subject(cls, given, tiny.build(family))
        some = _on_family(subject)
        found += some
        if runs_on is None and any(one.outcome == "passed" for one in some):
            runs_on = subject.tiny
    together: list[Finding] = []
    if pairs and runs_on is not None:
        for other in registry.methods:
            if other not in cls.name.split("+"):
                progress(f"{name} with {other}")
                together.append(_with_other(cls, given, other, runs_on.name))
    return Report(name, tuple(found), tuple(together))


def _valid(cls: type[Method], settings: dict[str, Any]) -> None:
    from harness.sweep import validated

    validated(cls.Settings, settings, f"method {cls.name!r}")


def _on_family(subject: Subject) -> list[Finding]:
    family = subject.tiny.name
    if reason := attach.check(subject.method, type(subject.tiny.backbone)):
        return [Finding(check, family, "refused", reason) for check in CHECKS]
    try:
        _ = subject.state
    except UserError as error:
        return [Finding(check, family, "not checked", str(error)) for check in CHECKS]
    found = []
    for check, run in CHECKS.items():
        try:
            _quietly(run, subject)
            found.append(Finding(check, family, "passed"))
        except NotApplicable as error:
            found.append(Finding(check, family, "not checked", str(error)))
        except Broken as error:
            found.append(Finding(check, family, "failed", str(error)))
        except Exception as error:
            found.append(Finding(check, family, "failed", failure_reason(error, subject.cls.files())))
            subject.tiny = tiny.build(family)  # what it has left behind is not for the next check
    return found


def _with_other(cls: type[Method], settings: dict[str, Any], other: str, family: str) -> Finding:
    """The composition with another method: refused with a reason, or it runs and is taken off again."""
    if other in _SLOW:
        return Finding(_PAIR, other, "not checked", _SLOW[other])
    try:
        partner = registry.methods.get(other)
        if reason := refusal(cls, partner):
            return Finding(_PAIR, other, "refused", reason)
        both = method_class(f"{cls.name}+{other}")
        given = {name: value for name, value in settings.items() if name in both.Settings.model_fields}
        subject = Subject(both, given, tiny.build(family))
        if reason := attach.check(build(both, given), type(subject.tiny.backbone)):
            return Finding(_PAIR, other, "refused", reason)
        _ = subject.state
    except UserError as error:
        return Finding(_PAIR, other, "not checked", str(error))
    try:
        _quietly(_runs, subject)
    except UserError as error:
        return Finding(_PAIR, other, "refused", str(error))
    except Broken as error:
        return Finding(_PAIR, other, "failed", str(error))
    except Exception as error:
        return Finding(_PAIR, other, "failed", failure_reason(error, cls.files()))
    return Finding(_PAIR, other, "passed")


def _runs(subject: Subject) -> None:
    model = {"transformer": subject.tiny.backbone.transformer}
    before = Snapshot.of(model)
    latents = subject.draw()
    if left := before.changes(model):
        raise Broken(f"together they left behind: {', '.join(left)}")
    if not torch.isfinite(latents).all():
        raise Broken("together the latents hold NaN or infinite values")


def _quietly(run: Callable[[Subject], None], subject: Subject) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(subject)
