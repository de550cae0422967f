"""A method in one file: `python -m harness run --methods random-drop --plugin examples/random_drop.py`."""

from contextlib import contextmanager

import torch

import harness
from harness.method import Method, RatioSettings
from harness.tokens import kept_count, run_on, top_k


@harness.methods.register("random-drop")
class RandomDrop(Method):
    """Random tokens bypass each block: the floor that any token method must beat."""

    Settings = RatioSettings
    selects = "changing"  # other tokens at each step

    @contextmanager
    def attach(self, backbone, state=None):
        if not self.ratio:  # ratio 0 is the dense model, bit for bit
            yield
            return

        def advice(call):
            batch, tokens, _ = call.x.shape
            seed = 1000 * call.step.index + call.layer  # a private generator: the same image whatever ran before
            scores = torch.rand(batch, tokens, generator=torch.Generator().manual_seed(seed)).to(call.x.device)
            index = top_k(scores, kept_count(self.ratio, tokens))
            return run_on(index, call)

        with backbone.advise("block", advice):
            yield
