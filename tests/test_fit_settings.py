"""What of a method's settings a fit is made for, and what belongs to a run."""

from __future__ import annotations

import pytest

from harness import cli, config
from harness.config import method_of
from harness.fitting import request
from harness.models import adapters, load


def test_a_control_that_runs_with_the_method_s_own_weights_never_gets_into_them() -> None:
    """A sweep of a method and of its control with swapped tokens, without an adapter."""
    swapped = {"name": "diffcr", "ratio": 0.4, "control": "random-tokens", "temperature": 0.1}
    sweep = config.build({"methods": [{"name": "diffcr", "ratio": 0.4}, swapped], "model": "shapes"})
    (wanted,) = request.missing(sweep, load("shapes"))
    (method,) = wanted.methods
    assert method.adapter() == "diffcr-lt-40"
    assert method.settings == method_of("diffcr", {"ratio": 0.4}).settings


def test_settings_that_name_an_adapter_stay() -> None:
    kept = {"ratio": 0.4, "control": "random-tokens", "refitted": True, "same_ratios": True, "seed": 2, "axes": "layer"}
    method = method_of("diffcr", {**kept, "multiple": 16})
    fitted = adapters.as_fitted(method)
    assert fitted.adapter() == method.adapter() == "diffcr-l-40-s2-random-tokens-same-ratios"
    assert fitted.settings == method_of("diffcr", kept).settings


@pytest.mark.parametrize(
    "settings, told",
    [
        (
            ["control=random-tokens"],
            "setting control of 'diffcr' belongs to a run, and one fit serves all of its values",
        ),
        (["temperature=0.1", "multiple=64"], "setting temperature, multiple of 'diffcr' belongs to a run"),
        (["trajectory=true"], "adapter 'diffcr-lt-30-trajectory' is a by-product of a fit to a higher ratio"),
    ],
)
def test_a_fit_refuses_what_it_would_not_heed(
    settings: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word for one in settings for word in ("--set", one)]
    assert cli_code(["fit", "diffcr", *given]) == 2
    assert told in capsys.readouterr().err


def cli_code(words: list[str]) -> int:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as caught:
        patch.setattr("sys.argv", ["harness", *words])
        cli.main()
    return int(caught.value.code or 0)
