"""The bundled model `emoji`."""

import pytest
import torch

from harness.models import Model, load


@pytest.fixture(scope="module")
def emoji() -> Model:
    found = load("emoji")
    torch.set_num_threads(1)
    _ = found.pipeline
    return found
