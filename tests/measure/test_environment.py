"""The description is complete and flat."""

from __future__ import annotations

import torch

from harness.measure.environment import describe


def test_describe() -> None:
    facts = describe(torch.device("cpu"))
    assert {"python", "torch", "diffusers", "tomesd", "fvcore", "clean-fid", "numpy", "pandas"} <= set(facts)
    assert {"platform", "cpu", "threads", "device"} <= set(facts)
    assert all(isinstance(value, str) and (value or name == "commit") for name, value in facts.items())
    assert facts["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert facts["device"] == facts["cpu"]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert describe(torch.device("cpu"))["attention"] == "SDPA: math" != facts["attention"]
    assert describe(torch.device("meta"))["device"] == "meta"
