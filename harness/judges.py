"""Which metrics judge the images of a sweep: those that were asked for, else all that can."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import config, registry
from harness.errors import UserError
from harness.metric import Metric
from harness.models import Model
from harness.spec import Case
from harness.sweep import Sweep

_LOG = logging.getLogger(__name__)


def _wanted(name: str, sweep: Sweep) -> bool:
    """Whether the user asked for a metric by name or by a setting."""
    return bool(sweep.metric_settings.get(name)) or sweep.metrics is not None


def judges(metric: Metric, cases: Sequence[Case], sweep: Sweep) -> bool:
    """Whether a metric can judge images of these cases. Raises UserError where it cannot and was asked for."""
    with registry.blamed("metric", type(metric)):
        reason = metric.refuses(cases)
    if reason and _wanted(metric.name, sweep):
        raise UserError(f"metric {metric.name!r} cannot judge images of these cases: {reason}")
    return not reason


def chosen(cls: type[Metric], sweep: Sweep, model: Model, reference: Path | None) -> Metric | None:
    """A metric that can judge this model's images with what is available, or None. Raises UserError instead where the
    user asked for it by name or by a setting."""
    given, wanted = sweep.metric_settings.get(cls.name, {}), _wanted(cls.name, sweep)
    try:
        with registry.blamed("metric", cls):
            if not cls.applies(model):
                if wanted:
                    raise UserError(f"it cannot judge images of model {sweep.model!r}; leave it out of --metrics")
                return None
            metric = metric_of(cls, given, model, reference)
            metric.check()
    except registry.Blamed as error:
        if wanted:
            raise
        _LOG.warning("%s; it is left out", error)
        return None
    except UserError as error:
        if wanted:
            raise UserError(f"metric {cls.name!r}: {error}") from error
        return None
    return metric


def fingerprint(metric: Metric) -> dict[str, str]:
    """What it says of itself for records to compare. Raises UserError for what is no text by name."""
    with registry.blamed("metric", type(metric)):
        found = metric.fingerprint()
        if not isinstance(found, dict) or not all(isinstance(one, str) for pair in found.items() for one in pair):
            raise TypeError(f"fingerprint gave {found!r}; expected texts by name")
    return found


def metric_of(cls: type[Metric], given: dict[str, Any], model: Model, reference: Path | None) -> Metric:
    """A metric object. Raises UserError for settings that are no good."""
    own = cls.Settings is not Metric.Settings
    return cls(model, config.metric_settings_of(cls, given), reference) if own else cls(model)
